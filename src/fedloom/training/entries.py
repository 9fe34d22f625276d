"""Which entries of a client's adapter are trained: all, those of some tensors, or square factors between two."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from fedloom.aggregation.lora.square import expand, pull_back
from fedloom.model.grouped_adapter import GroupedAdapter


class TrainedEntries:
    """The trained part of a flat adapter, as a vector of its own; what is not trained is never touched.

    Args:
        grouped: the adapters' layout.
        names: of the trained tensors, PEFT's; None: all.
    """

    def __init__(self, grouped: GroupedAdapter[Any], names: Collection[str] | None = None) -> None:
        self._shapes = {name: shape for name, shape in grouped.shapes.items() if names is None or name in names}
        self._places: Tensor | None = None
        if len(self._shapes) < len(grouped.shapes):
            places = grouped.split(torch.arange(grouped.size)[None])
            self._places = torch.cat([places[name].reshape(-1) for name in self._shapes]).to(grouped.device)

    def values(self, row: Tensor) -> Tensor:
        """The trained entries of a flat adapter [parameters]; where all are trained, the very same tensor."""
        return row if self._places is None else row[self._places]

    def gradients(self, row: Tensor) -> Tensor:
        """The gradient of the trained entries, from that of the flat adapter [parameters]."""
        return self.values(row)

    def put(self, entries: Tensor, row: Tensor) -> None:
        """Write trained entries back into the flat adapter they were taken from."""
        if self._places is not None:
            row[self._places] = entries

    def views(self, entries: Tensor) -> dict[str, Tensor]:
        """The named tensors of a vector of trained entries."""
        parts = entries.split([math.prod(shape) for shape in self._shapes.values()])
        return {name: part.view(self._shapes[name]) for name, part in zip(self._shapes, parts, strict=True)}

    def beside(self, entries: Tensor) -> dict[str, Tensor]:
        """The named tensors of trained entries that are no part of the flat adapter."""
        return {}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors as a vector of trained entries, fp32."""
        return torch.cat([tensors[name].reshape(-1).float() for name in self._shapes])


class MaskedEntries(TrainedEntries):
    """The trained part of a flat adapter where a client trains some entries only of the tensors that it keeps.

    Entries left out have no moments and no decay, and are no part of the gradient that is clipped [our choice].

    Args:
        grouped: the adapters' layout.
        names: of the tensors that are trained, wholly or in part.
        partly: of those of which a part is trained.
        mask: bool [entries of `partly`], True where an entry is trained.
    """

    def __init__(
        self, grouped: GroupedAdapter[Any], names: Collection[str], partly: Collection[str], mask: Tensor
    ) -> None:
        chosen = {
            name: torch.full(shape, name in names and name not in partly) for name, shape in grouped.shapes.items()
        }
        masks = mask.split([math.prod(shape) for name, shape in grouped.shapes.items() if name in partly])
        for name, part in zip((name for name in grouped.shapes if name in partly), masks, strict=True):
            if name in names:
                chosen[name] = part
        self._places = torch.cat([part.reshape(-1) for part in chosen.values()]).nonzero()[:, 0].to(grouped.device)

    def places_of(self, others: TrainedEntries) -> Tensor:
        """Where other trained entries, all of which are among these, are found: int64 [other entries]."""
        assert self._places is not None
        assert others._places is not None
        return torch.searchsorted(self._places, others._places)

    def views(self, entries: Tensor) -> dict[str, Tensor]:
        """There are none: single entries of a tensor are no tensor."""
        raise NotImplementedError


class SquareEntries(TrainedEntries):
    """Fed-SB's R [r, r] between frozen factors: the flat adapter holds A and B R, and B's gradient is taken back to R.

    Args:
        grouped: the adapters' layout.
        adapter: A, B and R of each layer, as broadcast.
    """

    def __init__(self, grouped: GroupedAdapter[Any], adapter: Mapping[str, Tensor]) -> None:
        squares = {name: value for name, value in adapter.items() if ".lora_R." in name}
        self._shapes = {name: tuple(value.shape) for name, value in squares.items()}
        self._grouped = grouped
        self._start = self.flatten(squares).to(grouped.device)
        self._factors = {name: adapter[_factor(name)].float().to(grouped.device) for name in squares}

    def values(self, row: Tensor) -> Tensor:
        """Every R as broadcast; B R, which the row holds, does not tell R to the last bit."""
        return self._start.clone()

    def gradients(self, row: Tensor) -> Tensor:
        """See `TrainedEntries`."""
        parts = self._grouped.split(row[None])
        return torch.cat([pull_back(parts[_factor(name)][0], b).reshape(-1) for name, b in self._factors.items()])

    def beside(self, entries: Tensor) -> dict[str, Tensor]:
        """Every R."""
        return self.views(entries)

    def put(self, entries: Tensor, row: Tensor) -> None:
        """Write every B R into the flat adapter."""
        parts = self._grouped.split(row[None])
        for name, square in self.views(entries).items():
            parts[_factor(name)][0].copy_(expand(square, self._factors[name]))


def _factor(name: str) -> str:
    return name.replace(".lora_R.", ".lora_B.")
