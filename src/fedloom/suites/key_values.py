"""Keys and values of answers in progress: written in place, taken apart and put together again row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# How many further tokens a buffer has room for before it is copied into a larger one.
ROOM = 64


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer in buffers with room to grow: transformers' own layer copies everything every step.

    Rows are aligned at their last token; what stands before a shorter one is hidden by the attention mask.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append tokens.

        Args:
            key_states: [rows, heads, tokens, dim].
            value_states: likewise.
            args: not used.
            kwargs: not used.

        Returns:
            Keys and values of all tokens so far, as views of the buffers.
        """
        new, length = (key_states, value_states), self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = length + key_states.shape[2]
        if not self._buffers or end > self._buffers[0].shape[2]:
            grown = [states.new_zeros(*states.shape[:2], end + ROOM, states.shape[3]) for states in new]
            for buffer, old in zip(grown, self._buffers, strict=bool(self._buffers)):
                buffer[:, :, :length] = old[:, :, :length]
            self._buffers = grown
        for buffer, states in zip(self._buffers, new, strict=True):
            buffer[:, :, length:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


def empty_cache(layers: int) -> DynamicCache:
    """A cache without tokens.

    Args:
        layers: of the model.

    Returns:
        What a model's forward takes as `past_key_values`.
    """
    cache = DynamicCache()
    cache.layers = [GrowingLayer() for _ in range(layers)]
    return cache


def repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """A cache whose rows all begin with the one row of another.

    Args:
        cache: of one row.
        rows: how many.

    Returns:
        A new cache.
    """
    return joined([(cache, [0] * rows)], cache.get_seq_length())


def joined(parts: Sequence[tuple[DynamicCache, Sequence[int]]], length: int) -> DynamicCache:
    """One cache of rows of several, aligned at their last tokens.

    Args:
        parts: caches, each with which of its rows are taken.
        length: tokens of the new cache, at least those that are visible in any row taken.

    Returns:
        A new cache of len(rows) of all parts, in their order. What a shorter row lacks in front is zero.
    """
    cache = empty_cache(len(parts[0][0].layers))
    for place, layer in enumerate(_layers(cache)):
        layer.update(
            *(_aligned([(_layers(part)[place], rows) for part, rows in parts], length, what) for what in (0, 1))
        )
    return cache


def _layers(cache: DynamicCache) -> list[GrowingLayer]:
    return [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]


def _aligned(parts: Sequence[tuple[GrowingLayer, Sequence[int]]], length: int, what: int) -> Tensor:
    kept = []
    for layer, rows in parts:
        states = (layer.keys, layer.values)[what]
        assert states is not None
        taken = min(length, states.shape[2])
        kept.append(states[:, :, states.shape[2] - taken :].index_select(0, torch.tensor(rows, device=states.device)))
    whole = kept[0].new_zeros(sum(map(len, kept)), kept[0].shape[1], length, kept[0].shape[3])
    first = 0
    for states in kept:
        whole[first : first + len(states), :, length - states.shape[2] :] = states
        first += len(states)
    return whole


def bytes_per_token(cache: DynamicCache) -> int:
    """Bytes of one token of one row.

    Args:
        cache: that holds something.

    Returns:
        Keys and values of all layers.
    """
    held = [states for layer in _layers(cache) for states in (layer.keys, layer.values)]
    return sum(states.element_size() * states.shape[1] * states.shape[3] for states in held if states is not None)
