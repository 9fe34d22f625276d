"""What the drawn partitions share: enough records, no client too small, and the clients' names."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedloom.errors import UserError

PURPOSE = "partition"
MAX_ATTEMPTS = 50


def require_enough(records: int, clients: int, min_examples: int) -> None:
    """Check that every client can have its least number of records.

    Args:
        records: how many there are.
        clients: how many share them.
        min_examples: smallest client allowed.

    Raises:
        UserError: where there are too few.
    """
    if clients * min_examples > records:
        each = "record" if min_examples == 1 else "records"
        raise UserError(
            f"data.partition.clients: {clients} clients of at least {min_examples} {each} need "
            f"{clients * min_examples} records, and there are {records}"
        )


def with_minimum(draw: Callable[[int], NDArray[np.int64]], clients: int, min_examples: int) -> NDArray[np.int64]:
    """Draw until no client is too small, at most 50 times; then move records from the largest clients.

    Args:
        draw: number of the attempt -> [records] int64, the client of each record.
        clients: how many share them.
        min_examples: smallest client allowed; `require_enough` holds.

    Returns:
        [records] int64, the client of each record.
    """
    best: NDArray[np.int64] | None = None
    best_missing = 0
    for attempt in range(MAX_ATTEMPTS):
        owners = draw(attempt)
        sizes = np.bincount(owners, minlength=clients)
        missing = int(np.clip(min_examples - sizes, 0, None).sum())
        if missing == 0:
            return owners
        if best is None or missing < best_missing:
            best, best_missing = owners, missing
    assert best is not None
    return _repaired(best, clients, min_examples)


def client_names(clients: int) -> list[str]:
    """Names whose order is that of their numbers."""
    digits = max(3, len(str(clients - 1)))
    return [f"client-{number:0{digits}d}" for number in range(clients)]


def _repaired(owners: NDArray[np.int64], clients: int, min_examples: int) -> NDArray[np.int64]:
    sizes = np.bincount(owners, minlength=clients)
    held = np.split(np.argsort(owners, kind="stable"), np.cumsum(sizes)[:-1])
    stacks = [list(places) for places in held]
    largest = [(-len(stack), client) for client, stack in enumerate(stacks)]
    heapq.heapify(largest)
    repaired = owners.copy()
    for client in np.flatnonzero(sizes < min_examples):
        for _ in range(min_examples - int(sizes[client])):
            size, donor = heapq.heappop(largest)
            repaired[stacks[donor].pop()] = client
            heapq.heappush(largest, (size + 1, donor))
    return repaired
