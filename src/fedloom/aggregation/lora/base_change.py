"""What has been added to the base model so far, as factors: state of algorithms whose `changes_base` is set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedloom.aggregation.base import State, Tensors
from fedloom.aggregation.lora.factors import ENDINGS, Pair, lora_layers, named, pair_of, weighted_sum

PREFIX = "base/"


def no_change(adapter: Tensors) -> State:
    """The state before anything was added: factors of rank 0.

    Args:
        adapter: the global adapter.

    Returns:
        "base/<layer>.lora_A.weight" [0, in] and "base/<layer>.lora_B.weight" [out, 0], fp32 or finer.
    """
    state: State = {}
    for layer in lora_layers(adapter):
        a, b = adapter[layer + ENDINGS["A"]], adapter[layer + ENDINGS["B"]]
        # Rounding must not pile up over rounds, so not in an adapter's bf16.
        dtype = torch.promote_types(a.dtype, torch.float32)
        empty = Pair(a.new_zeros(0, a.shape[1], dtype=dtype), b.new_zeros(b.shape[0], 0, dtype=dtype))
        state |= named(PREFIX + layer, empty)
    return state


def base_change(state: State) -> dict[str, Tensor]:
    """The part of a state that clients are sent.

    Args:
        state: an algorithm's.

    Returns:
        Its factors under "base/<layer>.lora_A.weight" and "base/<layer>.lora_B.weight", whose product, with no
        further scale, is what has been added to the layer's weight.
    """
    return {name: value for name, value in state.items() if name.startswith(PREFIX)}


def with_change(state: State, changes: Mapping[str, Pair]) -> State:
    """Add products to the base model.

    Where the summed rank would exceed the smaller side of the weight, the product itself takes the place of one factor
    and the identity that of the other: the same matrix, and no larger than the factors would have been. So the state
    stays bounded however long a run lasts.

    Args:
        state: what was added so far.
        changes: a pair for each layer that changes, scale included.

    Returns:
        The new state; the given one is left as it is.
    """
    result = dict(state)
    for layer, change in changes.items():
        total = weighted_sum([pair_of(state, PREFIX + layer), change], [1.0, 1.0])
        for name, value in named(PREFIX + layer, _bounded(total)).items():
            result[name] = value.to(state[name].dtype)
    return result


def _bounded(pair: Pair) -> Pair:
    outputs, inputs = pair.b.shape[0], pair.a.shape[1]
    if pair.rank <= min(outputs, inputs):
        return pair
    product = pair.b @ pair.a
    if inputs <= outputs:
        return Pair(torch.eye(inputs, dtype=product.dtype), product)
    return Pair(product, torch.eye(outputs, dtype=product.dtype))
