"""For rules that need all updates at once: they wait in a file, and come back in blocks of columns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedRandom
from typing import Any

import torch
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update, Weighting, update_weight
from fedloom.aggregation.folding import accepted, check_delta

# Entries of a block: 8 MiB in fp32, whatever the number of clients and the size of the adapter.
BLOCK = 1 << 21


class CollectedUpdates:
    """A round's acceptable updates as the rows of a matrix [clients, entries], clients in the order of their names.

    Args:
        file: holds the rows.
        reference: whose entries are the columns.
        dtype: number format of the rows.
        arrived: client and weight of each row.
        rejected: how many updates were not acceptable.
    """

    def __init__(
        self,
        file: BufferedRandom,
        reference: Tensors,
        dtype: torch.dtype,
        arrived: list[tuple[str, float]],
        rejected: int,
    ) -> None:
        self.rejected = rejected
        self._file = file
        self._reference = reference
        self._dtype = dtype
        self._size = sum(value.numel() for value in reference.values())
        self._rows = sorted(range(len(arrived)), key=lambda row: arrived[row][0])
        self.clients = [arrived[row][0] for row in self._rows]
        self.weights = [arrived[row][1] for row in self._rows]

    def __len__(self) -> int:
        """The number of updates."""
        return len(self.clients)

    def blocks(self) -> Iterator[tuple[str, slice, Tensor]]:
        """The matrix, block by block, tensor after tensor.

        Yields:
            A tensor's name, entries of it, and their columns [clients, entries], fp32 or fp64; valid until the next.
        """
        columns = max(1, BLOCK // max(1, len(self)))
        buffer = torch.empty(len(self), min(columns, self._size), dtype=self._dtype)
        before = 0
        for name, value in self._reference.items():
            for start in range(0, value.numel(), columns):
                block = buffer[:, : min(columns, value.numel() - start)]
                for own, row in zip(block, self._rows, strict=True):
                    self._file.seek((row * self._size + before + start) * self._dtype.itemsize)
                    self._file.readinto(_bytes(own))
                yield name, slice(start, start + block.shape[1]), block
            before += value.numel()

    def squared_distances(self) -> Tensor:
        """Between all updates, from fp64 products.

        Returns:
            Squared Euclidean distances [clients, clients], symmetric to the bit, fp64.
        """
        products = torch.zeros(len(self), len(self), dtype=torch.float64)
        for _, _, block in self.blocks():
            wide = block.double()
            products.addmm_(wide, wide.t())
        products = products.triu() + products.triu(1).t()
        squares = products.diagonal()
        return (squares[:, None] + squares - 2 * products).clamp_(min=0)

    def combination(self, weights: Sequence[float]) -> dict[str, Tensor]:
        """Find sum_k w_k D_k / sum_k w_k.

        Args:
            weights: one for each client.

        Returns:
            Named tensors, fp64.
        """
        total = sum(weights)

        def combine(block: Tensor) -> Tensor:
            mean = torch.zeros(block.shape[1], dtype=torch.float64)
            for row, weight in zip(block, weights, strict=True):
                if weight:
                    mean.add_(row, alpha=weight)
            return mean.div_(total)

        return self.by_column(combine)

    def by_column(self, aggregate: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Aggregate column by column.

        Args:
            aggregate: a block [clients, columns] to fp64 [columns].

        Returns:
            Named tensors, fp64.
        """
        result = {name: torch.empty(value.shape, dtype=torch.float64) for name, value in self._reference.items()}
        for name, entries, block in self.blocks():
            result[name].view(-1)[entries] = aggregate(block)
        return result


@contextmanager
def collected(
    updates: Iterable[Update], reference: Tensors, weighting: Weighting = "uniform"
) -> Iterator[CollectedUpdates]:
    """Let a round's updates wait in a file, one after another as they come in.

    The file has no name and is gone once the block is left or the process ends; it is in the system's folder for
    temporary files (TMPDIR). In memory there are one update while it comes in, then one block of columns, and a result.

    Args:
        updates: a round's updates, or any iterable of updates.
        reference: whose names and shapes every update must have.
        weighting: what an update must have a weight by.

    Yields:
        The acceptable ones.
    """
    exact = any(value.dtype == torch.float64 for value in reference.values())
    dtype = torch.float64 if exact else torch.float32
    arrived = []
    rejected = 0

    def check(update: Update) -> None:
        nonlocal rejected
        rejected += 1  # unless both checks let it pass
        update_weight(update, weighting)
        check_delta(update.delta, reference)
        rejected -= 1

    with tempfile.TemporaryFile(prefix="fedloom-updates-") as file:
        for update in accepted(updates, check):
            for name in reference:
                file.write(_bytes(update.delta[name].detach().to("cpu", dtype).contiguous()))
            arrived.append((update.client, update_weight(update, weighting)))
        yield CollectedUpdates(file, reference, dtype, arrived, rejected)


def _bytes(values: Tensor) -> Any:
    """The memory of a contiguous tensor."""
    return values.view(-1).view(torch.uint8).numpy()
