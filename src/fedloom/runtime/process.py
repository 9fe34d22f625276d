"""How this process computes: its threads, and the memory it keeps between steps."""

from __future__ import annotations

import ctypes
import os
import platform

# glibc's mallopt: parameter numbers, and sizes in bytes (32 MiB is the largest threshold it takes). One arena for all
# threads, so that what one lane frees another can use.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
MALLOC_SETTINGS = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 512 << 20, M_TOP_PAD: 64 << 20}


def usable_threads(threads: int | None, processes: int = 1) -> int:
    """The number of CPU threads a recipe's `runtime.threads` stands for.

    Args:
        threads: the recipe's; None: all cores this process may use.
        processes: of this run on this machine, which share the cores.

    Returns:
        Threads of one process.
    """
    return threads or max(1, len(os.sched_getaffinity(0)) // processes)


def return_freed_memory() -> None:
    """Hand back to the system what is free now: preparing data needs gigabytes that training never asks for again."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Keep freed memory at hand instead of returning it to the system after every step.

    A training step allocates and frees the same activations again and again. By default glibc hands them back to the
    kernel, which clears every page anew: a quarter of the time of small models on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in MALLOC_SETTINGS.items():
            libc.mallopt(parameter, value)
