"""Updates of clients that left out units of the base: what they send, and a mean over those that kept an entry.

A unit is an attention head (or a group of heads that share keys and values) or a feed-forward neuron; rows or columns
of the adapter are tied to it. What a client sends are the rows and columns of units that it kept, as smaller tensors,
and one bit for each unit. The mean of an entry over those that kept it, and that an entry which nobody kept stays as it
is, are HeteroFL's (arXiv 2010.01264); that units are told as bits is our choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedloom.aggregation.base import Algorithm, RejectedUpdate, State, Tensors, Update
from fedloom.aggregation.folding import Accumulator, Folded, fold
from fedloom.aggregation.mean import StreamingMean
from fedloom.aggregation.wrapped import Wrapped

# Of an update's extra tensors: which units it kept.
KEPT = "pruning/kept"


@dataclass(frozen=True)
class Tie:
    """How a tensor's rows or columns belong to units: unit after unit, as many for each.

    Args:
        first: the first of its units, among all units of the model.
        count: how many units.
        size: rows or columns of each.
        dim: 0: rows; 1: columns.
    """

    first: int
    count: int
    size: int
    dim: int

    def of(self, kept: Tensor) -> Tensor:
        """The tie's own part of a tensor over all units [units]."""
        return kept[self.first : self.first + self.count]

    def places(self, kept: Tensor) -> Tensor:
        """The rows or columns of kept units.

        Args:
            kept: bool [units], over all units of the model.

        Returns:
            int64, ascending.
        """
        return self.of(kept).repeat_interleave(self.size).nonzero()[:, 0]


Ties = Mapping[str, Tie]


def units_of(ties: Ties) -> int:
    """How many units there are, as far as tensors are tied to them."""
    return max((tie.first + tie.count for tie in ties.values()), default=0)


def pack_kept(kept: Tensor) -> Tensor:
    """Write which units were kept as bits.

    Args:
        kept: bool [units].

    Returns:
        uint8 [units / 8, rounded up].
    """
    return torch.from_numpy(np.packbits(kept.numpy()))


def unpack_kept(bits: Tensor, units: int) -> Tensor:
    """Read what `pack_kept` has written.

    Args:
        bits: as received.
        units: how many there are at least.

    Returns:
        bool [8 * bytes], of which the first are the units.

    Raises:
        RejectedUpdate: where it is of another format or too short.
    """
    if bits.dtype != torch.uint8 or bits.dim() != 1 or 8 * len(bits) < units:
        raise RejectedUpdate(f"{KEPT}: {list(bits.shape)} of {bits.dtype} can't tell which of {units} units were kept")
    return torch.from_numpy(np.unpackbits(bits.numpy())).bool()


def cut(tensors: Tensors, ties: Ties, kept: Tensor) -> dict[str, Tensor]:
    """Leave out rows and columns of units that were not kept.

    Args:
        tensors: an adapter, or a part of one.
        ties: of its tensors; those without a tie stay whole.
        kept: bool [units].

    Returns:
        The same names.
    """
    return {
        name: value.index_select(ties[name].dim, ties[name].places(kept)) if name in ties else value
        for name, value in tensors.items()
    }


def scattered(tensors: Tensors, reference: Tensors, ties: Ties, kept: Tensor) -> dict[str, Tensor]:
    """Put rows and columns back where they belong, with zeros between them.

    Args:
        tensors: as `cut` gives them.
        reference: whose shapes they then have.
        ties: of its tensors.
        kept: bool [units].

    Returns:
        The same names.

    Raises:
        RejectedUpdate: for a tied tensor of another shape.
    """
    found = dict(tensors)
    for name in tensors.keys() & reference.keys() & ties.keys():
        tie, value, shape = ties[name], tensors[name], list(reference[name].shape)
        places = tie.places(kept)
        small = [*shape[: tie.dim], len(places), *shape[tie.dim + 1 :]]
        if list(value.shape) != small:
            raise RejectedUpdate(f"delta: {name} has shape {list(value.shape)}, not {small} as the units kept say")
        found[name] = value.new_zeros(shape).index_copy(tie.dim, places, value)
    return found


class KeptSums:
    """A mean's accumulator for updates with units left out; where nothing is, it is that mean to the last bit.

    Args:
        inner: accumulates whole updates.
        ties: of the adapter's tensors.
    """

    def __init__(self, inner: StreamingMean, ties: Ties) -> None:
        self._inner = inner
        self._ties = ties
        # Of each unit, the sum of the weights of those that kept it.
        self._weights = torch.zeros(units_of(ties), dtype=torch.float64)

    @property
    def sums(self) -> dict[str, Tensor]:
        """Those of the other accumulator, and the units' weights; see `Accumulator`."""
        return {**self._inner.sums, KEPT: self._weights}

    def add(self, update: Update) -> None:
        """Add one update; see `Accumulator`."""
        units = len(self._weights)
        kept = torch.ones(units, dtype=torch.bool)
        if KEPT in update.extra:
            kept = unpack_kept(update.extra[KEPT], units)[:units]
            update = replace(update, delta=scattered(update.delta, self._inner.reference, self._ties, kept))
        self._inner.add(update)
        self._weights += self._inner.weight(update) * kept

    def finish(self) -> None:
        """Turn the sums into those of a mean over the clients that kept each entry: sum * (all weights / theirs)."""
        sums, total = self._inner.sums, self._inner.total
        factors = torch.where(self._weights > 0, total / self._weights, 1.0)
        for name in sums.keys() & self._ties.keys():
            tie = self._ties[name]
            of_entry = tie.of(factors).repeat_interleave(tie.size)
            sums[name].mul_(of_entry[:, None] if tie.dim == 0 else of_entry)


class KeptUpdates:
    """Updates that fold entry by entry into a mean; see `Foldable`.

    Args:
        updates: a round's updates.
        ties: of the adapter's tensors.
    """

    def __init__(self, updates: Iterable[Update], ties: Ties) -> None:
        self._updates = updates
        self._ties = ties

    def fold(self, into: Accumulator) -> Folded:
        """Fold the updates; see `Foldable`. What becomes of them is told by those underneath."""
        assert isinstance(into, StreamingMean)
        fold(self._updates, KeptSums(into, self._ties)).finish()
        return Folded()

    def __iter__(self) -> Iterator[Update]:
        """There is no way but to fold: single updates of clients that kept different units can't be compared."""
        raise NotImplementedError


class MeanOfKept(Wrapped):
    """An algorithm that adds a weighted mean, taken entry by entry over the clients that kept the entry.

    Args:
        inner: folds updates into a `StreamingMean`, and does nothing else with them.
        ties: of the adapter's tensors.
    """

    def __init__(self, inner: Algorithm, ties: Ties) -> None:
        super().__init__(inner)
        self._ties = ties

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """See `Algorithm`."""
        return self.inner.step(adapter, state, KeptUpdates(updates, self._ties))
