"""Frozen linear layers side by side as one weight, with the adapters on them; and without some rows or columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedloom.model.adapter_products import Site
from fedloom.model.adapters.lora import GroupedLoraLayer


class Slice(NamedTuple):
    """What is kept of a linear layer.

    Args:
        rows: int64, of its outputs; None: all.
        columns: int64, of its inputs; None: all.
    """

    rows: Tensor | None
    columns: Tensor | None


@dataclass(frozen=True)
class FrozenLinear:
    """Frozen linear layers side by side, and which of them carry adapters.

    Args:
        weight: [outputs of all, inputs].
        bias: [outputs of all], or None.
        names: the layers' full names.
        sizes: outputs of each.
        sites: the adapted ones.
        adapted: these, as wrapped.
    """

    weight: Tensor
    bias: Tensor | None
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    sites: tuple[Site, ...]
    adapted: tuple[GroupedLoraLayer, ...]

    def sliced(self, slices: Mapping[str, Slice]) -> FrozenLinear:
        """A copy that lacks rows and columns; an adapter's factors lack them by themselves, see `GroupedLoraLayer`.

        Args:
            slices: by layer; those not named stay whole.

        Returns:
            The smaller layers.
        """
        if not any(name in slices for name in self.names):
            return self
        rows, first = [], 0
        for name, size in zip(self.names, self.sizes, strict=True):
            kept = slices[name].rows if name in slices else None
            rows.append(first + (torch.arange(size, device=self.weight.device) if kept is None else kept))
            first += size
        # They share their input.
        columns = slices[self.names[0]].columns if self.names[0] in slices else None
        together = torch.cat(rows)
        weight = self.weight if len(together) == len(self.weight) else self.weight.index_select(0, together)
        weight = weight if columns is None else weight.index_select(1, columns)
        bias = None if self.bias is None else self.bias.index_select(0, together)
        sizes = tuple(len(some) for some in rows)
        adapted = {layer.name for layer in self.adapted}
        sites = tuple(site for name, site in zip(self.names, sites_of(sizes), strict=True) if name in adapted)
        return FrozenLinear(weight, bias, self.names, sizes, sites, self.adapted)


def sites_of(sizes: Sequence[int]) -> list[Site]:
    """Where the outputs of layers side by side lie.

    Args:
        sizes: outputs of each.

    Returns:
        A site for each.
    """
    sites, first = [], 0
    for size in sizes:
        sites.append(Site(first, first + size))
        first += size
    return sites


def side_by_side(parent: nn.Module, prefix: str, names: Sequence[str]) -> FrozenLinear:
    """One weight for several layers; each layer's own becomes a view of it, so that none is kept twice.

    Args:
        parent: the module that they belong to.
        prefix: its full name.
        names: the layers', within it; they have the same input.

    Returns:
        The layers.
    """
    layers = [parent.get_submodule(name) for name in names]
    plain = [layer.base if isinstance(layer, GroupedLoraLayer) else layer for layer in layers]
    linear = [layer for layer in plain if isinstance(layer, nn.Linear)]
    weight = torch.cat([layer.weight.detach() for layer in linear])
    bias = None if linear[0].bias is None else torch.cat([layer.bias.detach() for layer in linear])
    sizes = tuple(layer.out_features for layer in linear)
    sites: list[Site] = []
    adapted: list[GroupedLoraLayer] = []
    for wrapped, layer, site in zip(layers, linear, sites_of(sizes), strict=True):
        layer.weight.data = weight[site.first : site.last]
        if isinstance(wrapped, GroupedLoraLayer):
            sites.append(site)
            adapted.append(wrapped)
    full = tuple(f"{prefix}.{name}" for name in names)
    return FrozenLinear(weight, bias, full, sizes, tuple(sites), tuple(adapted))
