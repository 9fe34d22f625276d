"""Folding: what an algorithm does with updates of which it needs nothing but sums.

An algorithm that needs the clients' single updates iterates over them. One that needs sums folds them, and leaves it to
whoever brings the updates where that happens: several processes fold their own clients' and add up the sums, and no
update travels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from fedloom.aggregation.base import Update


class Accumulator(Protocol):
    """Something that updates are added to, one by one and in any order."""

    @property
    def sums(self) -> dict[str, Tensor]:
        """All it has accumulated, fp64: adding up the sums of two accumulators is adding all updates to one."""
        ...

    def add(self, update: Update) -> None:
        """Add one update.

        Args:
            update: a client's update.
        """
        ...


AccumulatorType = TypeVar("AccumulatorType", bound=Accumulator)


@runtime_checkable
class Foldable(Protocol):
    """Updates that know how to be folded without being handed out."""

    def fold(self, into: Accumulator) -> Sequence[Update]:
        """Add every update to an accumulator.

        Args:
            into: the accumulator.

        Returns:
            The updates in the plan's order, without their tensors.
        """
        ...


def fold(updates: Iterable[Update], into: AccumulatorType) -> AccumulatorType:
    """Add every update to an accumulator, wherever the updates are.

    Args:
        updates: a round's updates, or any iterable of updates.
        into: the accumulator.

    Returns:
        The accumulator.
    """
    if isinstance(updates, Foldable):
        updates.fold(into)
    else:
        for update in updates:
            into.add(update)
    return into
