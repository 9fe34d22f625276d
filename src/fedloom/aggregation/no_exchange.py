"""The algorithm of baselines: clients keep what they learn, nothing is aggregated."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import State, Tensors, Update


class NoExchange:
    """x stays x: updates are consumed, so that the clients train, and dropped."""

    def init(self, adapter: Tensors) -> State:
        """No state; see `Algorithm`."""
        return {}

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round of everyone alone; see `Algorithm`."""
        for _ in updates:
            pass
        return dict(adapter), state
