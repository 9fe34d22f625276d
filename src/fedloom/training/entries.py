"""Which entries of a client's adapter are trained: all of them, or those of some tensors."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from fedloom.model.grouped_lora import GroupedLora


class TrainedEntries:
    """The trained part of a flat adapter, as a vector of its own; what is not trained is never touched.

    Args:
        lora: the adapters' layout.
        names: of the trained tensors, PEFT's; None: all.
    """

    def __init__(self, lora: GroupedLora, names: Collection[str] | None = None) -> None:
        self._shapes = {name: shape for name, shape in lora.shapes.items() if names is None or name in names}
        self._places: Tensor | None = None
        if len(self._shapes) < len(lora.shapes):
            places = lora.split(torch.arange(lora.size)[None])
            self._places = torch.cat([places[name].reshape(-1) for name in self._shapes]).to(lora.device)

    def pick(self, row: Tensor) -> Tensor:
        """The trained entries of a flat adapter [parameters]; where all are trained, the very same tensor."""
        return row if self._places is None else row[self._places]

    def put(self, entries: Tensor, row: Tensor) -> None:
        """Write trained entries back into the flat adapter they were picked from."""
        if self._places is not None:
            row[self._places] = entries

    def views(self, entries: Tensor) -> dict[str, Tensor]:
        """The named tensors of a vector of trained entries."""
        parts = entries.split([rows * columns for rows, columns in self._shapes.values()])
        return {name: part.view(self._shapes[name]) for name, part in zip(self._shapes, parts, strict=True)}

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Named tensors as a vector of trained entries, fp32."""
        return torch.cat([tensors[name].reshape(-1).float() for name in self._shapes])
