"""The algorithm of baselines: clients keep what they learn, nothing is aggregated."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import Algorithm, State, Tensors, Update
from fedloom.aggregation.folding import fold


class NoExchange(Algorithm):
    """x stays x: updates are consumed, so that the clients train, and dropped."""

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round of everyone alone; see `Algorithm`."""
        fold(updates, _Nothing())
        return dict(adapter), state


class _Nothing:
    """An accumulator that keeps nothing."""

    @property
    def sums(self) -> dict[str, Tensor]:
        """There are none."""
        return {}

    def add(self, update: Update) -> None:
        """Drop an update."""
