"""Adapters of lower rank within one layout: what lies beyond a client's rank is zero, and stays zero.

With the last rows of A and the last columns of B both zero, the gradient of either is zero too, so training a padded
adapter is training the small one.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def cut_to_rank(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The first rows of each A and the first columns of each B; what is no factor stays whole.

    Args:
        tensors: an adapter or part of one, PEFT's names.
        rank: how many.

    Returns:
        Views.
    """
    return {name: value[_kept(name, rank)] for name, value in tensors.items()}


def pad_to_layout(tensors: Mapping[str, Tensor], layout: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Factors as large as the layout's, zero beyond what is given; what is no factor has its size already.

    Args:
        tensors: an adapter of at most the layout's rank.
        layout: shapes by name.

    Returns:
        New tensors.
    """
    padded = {}
    for name, value in tensors.items():
        padded[name] = value.new_zeros(layout[name])
        padded[name][tuple(slice(size) for size in value.shape)] = value
    return padded


def _kept(name: str, rank: int) -> tuple[slice, ...]:
    if ".lora_A." in name:
        return (slice(0, rank),)
    return (slice(None), slice(0, rank)) if ".lora_B." in name else (slice(None),)
