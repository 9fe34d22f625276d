"""How this process computes: its threads, and the memory it keeps at hand between steps."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

# glibc's mallopt: parameter numbers, and sizes in bytes (32 MiB is the largest threshold it takes).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MALLOC_SETTINGS = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 512 << 20, M_TOP_PAD: 64 << 20}


def prepare_process(threads: int | None) -> None:
    """Set the number of threads, and keep freed memory instead of returning it after every step.

    A training step allocates and frees the same activations again and again. By default glibc hands them back to the
    kernel, which clears every page anew: a quarter of the time of small models on a CPU.

    Args:
        threads: CPU threads; None: all cores this process may use.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in MALLOC_SETTINGS.items():
            libc.mallopt(parameter, value)
