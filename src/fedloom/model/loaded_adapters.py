"""What one thread has put into the groups of a base model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fedloom.model.pruned_pass import PrunedPass


# For `GroupedAdapter.borrowed`: passes over the base as it was before any algorithm added to it.
ORIGINAL_BASE = {"original_base": True}


class LoadedAdapters(threading.local):
    """The adapters at work in one thread: cohorts may train side by side over the same base, a thread each."""

    def __init__(self) -> None:
        self.group_starts: tuple[int, ...] = ()
        self.values = self.gradients = torch.empty(0, 0)
        self.parameters: dict[str, Tensor] = {}
        self.gradient_views: dict[str, Tensor] = {}
        self.squares: Tensor | None = None
        # What the groups leave out of the base; see `pruned_pass`.
        self.pruned: PrunedPass | None = None
        # Whether what algorithms have added to the base is left out; see `ORIGINAL_BASE`.
        self.original_base = False
