"""Attention over sequences laid end to end: no token ever attends across a boundary, no padding in the batch.

Registered with transformers as the attention implementation ``fedloom_packed``; it receives q, k, v as
[1, heads, tokens, dim] and finds the sequences in the `AttentionLayout` passed as ``packed_layout``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

IMPLEMENTATION = "fedloom_packed"

# A sequence is padded to a length that follows from its own length alone, four steps to an octave. What it is padded
# to then never depends on its neighbours, and neither does a single bit of its result.
STEPS_PER_OCTAVE = 4
SHORTEST = 8
# Above this length the explicit [length, length] scores cost more memory traffic than a flash kernel saves.
LONGEST_EXPLICIT = 640
# Sequences of a bucket are worked off in chunks of at most this many score elements (32 MiB in fp32).
MAX_SCORES = 1 << 23


@dataclass(frozen=True)
class Bucket:
    """Sequences padded to the same length for batched products."""

    sequences: int
    length: int


@dataclass(frozen=True)
class AttentionLayout:
    """Where the sequences of a packed batch lie, and how to pad them into buckets and back.

    Args:
        buckets: the buckets in the order of `pad_index`.
        pad_index: int64 [padded], the packed token at each padded place (0 at padding).
        padding: int64 [...], the padded places that hold no token.
        unpad_index: int64 [tokens], the padded place of each packed token.
    """

    buckets: tuple[Bucket, ...]
    pad_index: Tensor
    padding: Tensor
    unpad_index: Tensor

    @staticmethod
    def of(lengths: np.ndarray, device: torch.device | str = "cpu") -> AttentionLayout:
        """Plan the buckets for sequences laid end to end.

        Args:
            lengths: int64 [sequences], tokens of each sequence, in packed order.
            device: where the index tensors go.

        Returns:
            The layout.
        """
        starts = np.cumsum(lengths) - lengths
        padded = padded_lengths(lengths)
        buckets: list[Bucket] = []
        pads: list[np.ndarray] = []
        valid: list[np.ndarray] = []
        unpad = np.empty(int(lengths.sum()), dtype=np.int64)
        placed = 0
        for longest in np.unique(padded):
            members = np.flatnonzero(padded == longest)
            place = np.arange(longest)[None, :]
            inside = place < lengths[members][:, None]
            pads.append(np.where(inside, starts[members][:, None] + place, 0).ravel())
            valid.append(inside.ravel())
            unpad[pads[-1][valid[-1]]] = placed + np.flatnonzero(valid[-1])
            buckets.append(Bucket(len(members), int(longest)))
            placed += len(members) * int(longest)
        padding = np.flatnonzero(~np.concatenate(valid))
        return AttentionLayout(
            tuple(buckets),
            torch.from_numpy(np.concatenate(pads)).to(device),
            torch.from_numpy(padding).to(device),
            torch.from_numpy(unpad).to(device),
        )


def padded_lengths(lengths: np.ndarray) -> np.ndarray:
    """The length each sequence is padded to inside attention.

    Args:
        lengths: int64 [sequences].

    Returns:
        int64 [sequences]: the next multiple of a quarter of the power of two below, at least `SHORTEST`.
    """
    octave = np.floor(np.log2(np.maximum(lengths - 1, 1))).astype(np.int64)
    step = np.maximum((1 << octave) // STEPS_PER_OCTAVE, SHORTEST)
    padded: np.ndarray = -(-lengths // step) * step
    return padded


class _Pad(torch.autograd.Function):
    """Packed rows to padded rows; both directions are gathers, never a scatter-add."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: AttentionLayout) -> Tensor:
        ctx.layout = layout
        return rows.index_select(0, layout.pad_index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.layout.unpad_index), None


class _Unpad(torch.autograd.Function):
    """Padded rows to packed rows; what flows back to padding is zero."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: AttentionLayout) -> Tensor:
        ctx.layout = layout
        return rows.index_select(0, layout.unpad_index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        padded = gradients[0].index_select(0, ctx.layout.pad_index)
        return padded.index_fill_(0, ctx.layout.padding, 0.0), None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: AttentionLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Variable-length causal attention, the contract of transformers' attention interface.

    Args:
        module: the attention layer (unused but for its name in errors).
        query: [1, heads, tokens, dim].
        key: [1, key/value heads, tokens, dim].
        value: [1, key/value heads, tokens, dim].
        attention_mask: must be None: the layout says what attends to what.
        scaling: factor on the scores; default 1 / sqrt(dim).
        dropout: must be 0: the base model is frozen and in evaluation mode.
        packed_layout: where the sequences lie.
        sliding_window: a token sees only so many tokens back, itself included.
        softcap: scores are bounded by softcap * tanh(scores / softcap).
        others: accepted for the interface; attention sinks are refused.

    Returns:
        [1, tokens, heads, dim], and None for the attention weights.
    """
    if packed_layout is None or attention_mask is not None:
        raise RuntimeError(f"{type(module).__name__} did not pass on the packed layout")
    if dropout or others.get("s_aux") is not None:
        raise RuntimeError(f"{type(module).__name__} uses dropout or attention sinks, not supported")
    heads, tokens, dim = query.shape[1:]
    shared = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    rows = [x.transpose(1, 2).reshape(tokens, -1) for x in (query, key, value)]
    padded = [_Pad.apply(x, packed_layout) for x in rows]  # type: ignore[no-untyped-call]
    outputs = []
    start = 0
    for bucket in packed_layout.buckets:
        stop = start + bucket.sequences * bucket.length
        q, k, v = (
            x[start:stop].view(bucket.sequences, bucket.length, count, -1).transpose(1, 2)
            for x, count in zip(padded, (heads, shared, shared), strict=True)
        )
        if bucket.length > LONGEST_EXPLICIT and softcap is None and sliding_window is None:
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, enable_gqa=heads != shared
            )
        elif query.device.type == "cpu":
            # In fp32: the number of sequences differs in every step, and each new shape of a bf16 product is compiled
            # anew, which takes longer than the product.
            out = _explicit(q.float(), k.float(), v.float(), scale, sliding_window, softcap).to(query.dtype)
        else:
            out = _explicit(q, k, v, scale, sliding_window, softcap)
        outputs.append(out.transpose(1, 2).reshape(stop - start, -1))
        start = stop
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    packed: Tensor = _Unpad.apply(joined, packed_layout)  # type: ignore[no-untyped-call]
    return packed.view(1, tokens, heads, -1), None


def _explicit(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None) -> Tensor:
    """Causal attention by batched products; query heads that share a key head become rows of one product."""
    sequences, heads, length, dim = q.shape
    shared = k.shape[1]
    repeat = heads // shared
    place = torch.arange(length, device=q.device)
    distance = place[:, None] - place[None, :]
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    bias = torch.zeros(length, length, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))
    bias = bias.repeat(repeat, 1)
    at_once = max(1, MAX_SCORES // (heads * length * length))
    outputs = []
    for first in range(0, sequences, at_once):
        rows = slice(first, first + at_once)
        queries = q[rows].reshape(-1, repeat * length, dim)
        keys = k[rows].reshape(-1, length, dim).transpose(1, 2)
        if softcap is None:
            scores = torch.baddbmm(bias, queries, keys, alpha=scale)
        else:
            scores = torch.tanh(torch.bmm(queries, keys) * (scale / softcap)) * softcap + bias
        out = torch.bmm(torch.softmax(scores, -1), v[rows].reshape(-1, length, v.shape[-1]))
        outputs.append(out.view(-1, heads, length, v.shape[-1]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
