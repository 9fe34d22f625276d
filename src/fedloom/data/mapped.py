"""Arrays that stay on disk: mapped into memory page by page, and let go again."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def map_array(path: Path) -> NDArray[Any]:
    """Map a .npy file, read-only.

    Args:
        path: the file.

    Returns:
        The array. A plain one over the mapped memory: np.memmap runs Python code at every index, and looking a client
        up by its name takes some forty of them.
    """
    return np.asarray(np.load(path, mmap_mode="r"))


def map_values(path: Path, width: DTypeLike) -> NDArray[Any]:
    """Map a file of nothing but numbers, read-only.

    Args:
        path: the file, not empty.
        width: type of the numbers.

    Returns:
        The array, see `map_array`.
    """
    return np.asarray(np.memmap(path, dtype=width, mode="r"))


def release_pages(arrays: Iterable[NDArray[Any]]) -> None:
    """Let go of the pages read so far; what is read again comes from the system's cache, as long as that has room.

    Every page that was ever touched counts as this process's memory, and the system maps sixteen around it: without
    this, the memory of a run would grow to the size of all clients' data.

    Args:
        arrays: mapped by this module, or not mapped at all.
    """
    for array in arrays:
        mapping = getattr(array.base, "base", None)
        if isinstance(mapping, mmap.mmap):
            mapping.madvise(mmap.MADV_DONTNEED)
