"""What one thread has put into the groups of a base model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fedloom.model.pruned_pass import PrunedPass


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
