"""The lanes of several processes, for evaluation passes: each process runs some, and all of them get all results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch

from fedloom.model.lanes import Lanes
from fedloom.wire.messages import pack_message, unpack_message

if TYPE_CHECKING:
    # torch.distributed is for those who are given a group.
    from fedloom.runtime.process_group import ProcessGroup

# Items of each process between two exchanges: what is in memory at a time.
ITEMS_AT_ONCE = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


class SharedLanes(Lanes):
    """As `Lanes`, over several processes that call it with the same items.

    Args:
        lanes: of this process.
        device: where this process computes.
        group: the processes.
    """

    def __init__(self, lanes: Lanes, device: torch.device, group: ProcessGroup) -> None:
        super().__init__(lanes.threads, device, lanes.threads_alone)
        self._group = group

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], alone: bool = False) -> Iterator[Result]:
        """Yield `function(item)` for every item, in the order of the items; see `Lanes`.

        Args:
            function: returns a tuple of NumPy arrays, always as many.
            items: what to work on.
            alone: see `Lanes`; the first process does such work.

        Yields:
            The results.
        """
        coming = iter(items)
        while window := list(islice(coming, ITEMS_AT_ONCE * self._group.size)):
            yield from self._share(function, window, alone)

    def _share(self, function: Callable[[Item], Result], items: list[Item], alone: bool) -> Iterator[Result]:
        size = 1 if alone else self._group.size
        dealt = [range(rank, len(items), size) if rank < size else range(0) for rank in range(self._group.size)]
        mine, in_lanes = dealt[self._group.rank], super().map

        def work() -> bytes:
            tensors = {}
            for place, result in zip(mine, in_lanes(function, [items[place] for place in mine], alone), strict=True):
                for column, values in enumerate(cast(Sequence[np.ndarray], result)):
                    tensors[f"{place}.{column}"] = torch.from_numpy(np.ascontiguousarray(values))
            return pack_message({"columns": len(tensors) // max(len(mine), 1)}, tensors)

        results: dict[int, Result] = {}
        for rank, part in enumerate(self._group.exchange(work)):
            values, tensors = unpack_message(part, f"results of process {rank}")
            for place in dealt[rank]:
                columns = [tensors[f"{place}.{column}"].numpy() for column in range(values["columns"])]
                results[place] = cast(Result, tuple(columns))
        for place in range(len(items)):
            yield results[place]
