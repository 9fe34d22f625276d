"""Two ways to take in a round's updates: fold them where they are, or collect them one by one.

An algorithm that needs the clients' single updates collects them. One that needs sums folds them, and leaves it to
whoever brings the updates where that happens: several processes fold their own clients' and add up the sums, and no
update travels. Either way an update that is not acceptable is left out and reported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from fedloom.aggregation.base import RejectedUpdate, Update


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

        Raises:
            RejectedUpdate: where it is not acceptable; nothing was added then.
        """
        ...


AccumulatorType = TypeVar("AccumulatorType", bound=Accumulator)


@dataclass
class Folded:
    """What became of updates that were folded where they are.

    Args:
        reports: all of them without their tensors, in the plan's order.
        rejected: why some of them were left out, by client.
    """

    reports: list[Update] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Foldable(Protocol):
    """Updates that know how to be folded without being handed out."""

    def fold(self, into: Accumulator) -> Folded:
        """Add every acceptable update to an accumulator.

        Args:
            into: the accumulator.

        Returns:
            What became of them.
        """
        ...


@runtime_checkable
class Rejecting(Protocol):
    """Updates that want to know which of them were not acceptable."""

    def reject(self, client: str, reason: str) -> None:
        """Hear that an update handed out is not acceptable.

        Args:
            client: whose it is.
            reason: what is wrong with it.
        """
        ...


def fold(updates: Iterable[Update], into: AccumulatorType) -> AccumulatorType:
    """Add every acceptable update to an accumulator, wherever the updates are.

    Args:
        updates: a round's updates, or any iterable of updates.
        into: the accumulator.

    Returns:
        The accumulator.
    """
    if isinstance(updates, Foldable):
        updates.fold(into)
    else:
        for _ in accepted(updates, into.add):
            pass
    return into


def accepted(updates: Iterable[Update], check: Callable[[Update], None]) -> Iterator[Update]:
    """The acceptable ones of the updates, in their order; the others are reported, or warned of.

    Args:
        updates: a round's updates, or any iterable of updates.
        check: raises `RejectedUpdate` for an update that must not be aggregated.

    Yields:
        The others.
    """
    for update in updates:
        try:
            check(update)
        except RejectedUpdate as rejection:
            if isinstance(updates, Rejecting):
                updates.reject(update.client, str(rejection))
            else:
                warnings.warn(f"update of client {update.client!r} rejected: {rejection}", stacklevel=2)
            continue
        yield update


def check_delta(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor], what: str = "delta") -> None:
    """Check the tensors of an update, in one pass over them and without a copy.

    Args:
        tensors: a client's.
        reference: of whose names and shapes they must be.
        what: which tensors they are, for messages.

    Raises:
        RejectedUpdate: for missing or surplus names, other shapes, other than floating-point formats, or numbers that
            are not finite.
    """
    if tensors.keys() != reference.keys():
        odd = sorted(tensors.keys() ^ reference.keys())
        raise RejectedUpdate(f"{what}: tensor names differ from the adapter's, e.g. {odd[0]!r}")
    for name, value in tensors.items():
        if value.shape != reference[name].shape:
            raise RejectedUpdate(f"{what}: {name} has shape {list(value.shape)}, not {list(reference[name].shape)}")
        if not value.is_floating_point():
            raise RejectedUpdate(f"{what}: {name} holds {value.dtype}, not a floating-point format")
        # The extremes of values with a NaN among them are NaN.
        if value.numel() and not all(bool(extreme.isfinite()) for extreme in value.aminmax()):
            raise RejectedUpdate(f"{what}: {name} holds numbers that are not finite")
