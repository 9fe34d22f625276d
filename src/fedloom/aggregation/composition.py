"""Most algorithms are a composition: what clients add to training, how updates are averaged, how the server steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from fedloom.aggregation.base import Algorithm, State, Tensors, Update
from fedloom.aggregation.client_rule import ClientRule
from fedloom.aggregation.server_optimizers import ServerOptimizer


class AggregationRule(Protocol):
    """Turns a round's updates into one."""

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """Aggregate.

        Args:
            updates: the clients' updates, to `fold` or to iterate over.
            reference: whose names and shapes every update must have.

        Returns:
            One update in fp64 that the caller may change, or None where no acceptable one came.
        """
        ...


class Composition(Algorithm):
    """x <- optimiser(x, rule(D_1, ..., D_n)), clients training by a rule of their own.

    Args:
        rule: how updates become one.
        optimizer: how that one moves the adapter; None: it is added.
        client: what clients add to local training; None: nothing.
    """

    def __init__(
        self, rule: AggregationRule, optimizer: ServerOptimizer | None = None, client: ClientRule | None = None
    ) -> None:
        self.rule = rule
        self.optimizer = optimizer or ServerOptimizer()
        self.client = client or ClientRule()

    def expected(self, adapter: Tensors, state: State) -> Tensors:
        """What clients send in the next round: all of the adapter, unless a subclass says otherwise.

        Args:
            adapter: the adapter.
            state: the server's state.

        Returns:
            The tensors whose names and shapes updates must have.
        """
        return adapter

    def init(self, adapter: Tensors) -> State:
        """The optimiser's state; see `Algorithm`."""
        return self.optimizer.init(adapter)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        delta = self.rule(updates, self.expected(adapter, state))
        return (dict(adapter), state) if delta is None else self.optimizer.update(adapter, delta, state)
