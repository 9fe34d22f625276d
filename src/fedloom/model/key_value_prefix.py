"""Prefix tuning's keys and values: in every layer they take the place of those that the base computes at some tokens.

Prefix tuning (arXiv 2101.00190) gives every layer keys and values to attend to that belong to no text. They are not
rotated: as in PEFT, they are what a cache would hold. In a packed batch they lie at places of virtual tokens, where
whatever the base computes is of no consequence: nothing but those keys and values is ever read there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class _Placed(torch.autograd.Function):
    """rows[tokens, -columns:] = own [places, columns], in place."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, own: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.columns = own.shape[1]
        ctx.mark_dirty(rows)
        rows[:, -ctx.columns :].index_copy_(0, tokens, own.to(rows.dtype))
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        to_own = gradients[0][:, -ctx.columns :].index_select(0, tokens)
        if not ctx.needs_input_grad[0]:
            return None, to_own, None
        # A copy: a gradient may have other readers.
        to_rows = gradients[0].clone()
        to_rows[:, -ctx.columns :].index_fill_(0, tokens, 0.0)
        return to_rows, to_own, None


@dataclass(frozen=True)
class KeyValuePrefix:
    """The keys and values at the places of virtual tokens of a packed batch, layer by layer.

    Args:
        tokens: int64 [places], which of the batch's tokens they are.
        layers: for each decoder layer fp32 [places, 2 * key heads * dim]: keys head by head, then values.
    """

    tokens: Tensor
    layers: tuple[Tensor, ...]

    def put_into_rows(self, rows: Tensor, layer: int) -> Tensor:
        """Put them in place, overwriting what was there.

        Args:
            rows: [tokens, (heads + 2 * key heads) * dim], queries, keys and values side by side, positions applied;
                overwritten.
            layer: number of the decoder layer.

        Returns:
            The same tensor.
        """
        placed: Tensor = _Placed.apply(rows, self.layers[layer], self.tokens)  # type: ignore[no-untyped-call]
        return placed

    def put_into_heads(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As `put_into_rows`, for keys and values as transformers' attention has them.

        Args:
            key: [1, key heads, tokens, dim].
            value: [1, key heads, tokens, dim].
            layer: number of the decoder layer.

        Returns:
            Keys and values, new tensors.
        """
        own = self.layers[layer].to(key.dtype).view(len(self.tokens), 2, key.shape[1], -1)
        keys, values = own.permute(1, 2, 0, 3)
        return key.index_copy(2, self.tokens, keys[None]), value.index_copy(2, self.tokens, values[None])


class KeyValueRecorder:
    """In place of a prefix: takes down the keys and values of a batch's first tokens, and changes none.

    Args:
        tokens: how many.
        columns: 2 * key heads * dim.
    """

    def __init__(self, tokens: int, columns: int) -> None:
        self._tokens = tokens
        self._columns = columns
        # By number of the layer, fp32 [tokens, columns]: keys head by head, then values.
        self.layers: dict[int, Tensor] = {}

    def put_into_rows(self, rows: Tensor, layer: int) -> Tensor:
        """See `KeyValuePrefix`; the rows stay as they are."""
        self.layers[layer] = rows[: self._tokens, -self._columns :].float()
        return rows

    def put_into_heads(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """See `KeyValuePrefix`; keys and values stay as they are."""
        first = torch.stack([key[0, :, : self._tokens], value[0, :, : self._tokens]])
        self.layers[layer] = first.permute(2, 0, 1, 3).flatten(1).float()
        return key, value
