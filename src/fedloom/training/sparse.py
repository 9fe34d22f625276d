"""Which neurons of its private layers a client trains: those with most Fisher information (arXiv 2410.00131).

Published are the momentum of the Fisher information, its sum over a neuron's parameters as the neuron's importance,
and that the rest of a private layer is left as it is. What a neuron is, is our choice: a row of LoRA's B, a column of
its A, and a row of any other tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.model.tensor_names import layer_of
from fedloom.training.layer_choice import ROUNDING

# Tensors of no layer are ranked among themselves.
NO_LAYER = -1


@dataclass(frozen=True)
class Neurons:
    """The neurons of some tensors, numbered through.

    Args:
        of_entry: int64 [entries], the neuron that each entry of the flat tensors belongs to.
        layers: int64 [neurons], the layer of each.
    """

    of_entry: Tensor
    layers: Tensor


def neurons_of(shapes: Mapping[str, tuple[int, ...]]) -> Neurons:
    """Number the neurons of an adapter's tensors.

    Args:
        shapes: of the tensors by name, in the order in which they lie in a flat vector.

    Returns:
        Their neurons.
    """
    entries, layers, count = [], [], 0
    for name, shape in shapes.items():
        columns = ".lora_A." in name
        size = shape[1] if columns else shape[0]
        number = torch.arange(size).view((1, -1) if columns else (-1, *(1 for _ in shape[1:])))
        entries.append((count + number).expand(shape).reshape(-1))
        layer = layer_of(name)
        layers.append(torch.full((size,), NO_LAYER if layer is None else layer))
        count += size
    return Neurons(torch.cat(entries), torch.cat(layers))


def neuron_mask(fisher: Tensor, neurons: Neurons, share: float) -> Tensor:
    """The entries of the most important neurons of each layer.

    Args:
        fisher: fp32 [entries], from 0 up.
        neurons: of the same entries.
        share: of each layer's neurons, rounded up.

    Returns:
        bool [entries]; of equally important neurons the first.
    """
    importance = torch.zeros(len(neurons.layers), dtype=torch.float64)
    importance.index_add_(0, neurons.of_entry, fisher.double())
    kept = torch.zeros(len(neurons.layers), dtype=torch.bool)
    for layer in neurons.layers.unique():
        members = (neurons.layers == layer).nonzero()[:, 0]
        best = importance[members].sort(descending=True, stable=True).indices
        kept[members[best[: math.ceil(share * len(members) - ROUNDING)]]] = True
    return kept[neurons.of_entry]


def next_fisher(before: Tensor, measured: Tensor, momentum: float) -> Tensor:
    """Fisher information with momentum: F_t = gamma F_{t-1} + (1 - gamma) F~_t.

    Args:
        before: fp32 [entries], F_{t-1}; F_0 is the first that is measured.
        measured: fp32 [entries], F~_t.
        momentum: gamma.

    Returns:
        fp32 [entries].
    """
    return momentum * before + (1 - momentum) * measured
