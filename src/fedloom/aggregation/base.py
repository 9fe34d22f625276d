"""The contract of an algorithm: `init` and `step` on named tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

Tensors = Mapping[str, Tensor]
State = dict[str, Tensor]
Weighting = Literal["examples", "tokens", "uniform"]


@dataclass(frozen=True)
class Update:
    """What a client sends after a round.

    Args:
        client: its name.
        delta: its adapter minus the one it was sent, under the same names.
        num_examples: its training examples.
        metrics: numbers it reports; `label_tokens` is what the weighting "tokens" reads.
        extra: further tensors an algorithm needs, e.g. control variates.
    """

    client: str
    delta: Tensors
    num_examples: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    extra: Tensors = field(default_factory=dict)

    def without_tensors(self) -> Update:
        """What it reports about itself."""
        return Update(self.client, {}, self.num_examples, self.metrics)


class Algorithm(Protocol):
    """An aggregation rule with its server state, both plain named tensors."""

    def init(self, adapter: Tensors) -> State:
        """The server's state before the first round.

        Args:
            adapter: the adapter that will be trained.
        """
        ...

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """Turn one round's updates, each as it arrives, into the next adapter.

        Args:
            adapter: what was sent to the clients.
            state: the server's state.
            updates: the clients' updates: to iterate over once, or, where sums are all it takes, to `fold`.

        Returns:
            The next adapter and state; the given ones are left as they are.
        """
        ...


def update_weight(update: Update, weighting: Weighting) -> float:
    """A client's weight before normalisation.

    Args:
        update: the client's update.
        weighting: by training examples, by trained label tokens, or all alike.

    Returns:
        A positive number.

    Raises:
        ValueError: where the weight is missing or not positive.
    """
    if weighting == "uniform":
        return 1.0
    weight = update.num_examples if weighting == "examples" else update.metrics.get("label_tokens")
    if weight is None or not weight > 0:
        raise ValueError(f"update of client {update.client!r}: weight by {weighting} is {weight}, must be > 0")
    return float(weight)
