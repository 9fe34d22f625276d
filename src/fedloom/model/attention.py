"""Attention over sequences laid end to end: no token ever attends across a boundary, no padding in the batch.

On a CPU, sequences are gathered, head by head, into buckets of equal shape and multiplied explicitly, block of queries
by block of queries: at the lengths of instruction data faster than the flash kernel of CPUs. On a CUDA device the flash
kernel for variable lengths does it, for bf16.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from fedloom.model.attention_layout import AttentionLayout, Bucket
from fedloom.model.key_value_prefix import KeyValuePrefix, KeyValueRecorder

IMPLEMENTATION = "fedloom_packed"

# Sequences of a bucket are worked off in chunks of at most this many score elements (32 MiB in fp32).
MAX_SCORES = 1 << 23
# What the flash kernel of CUDA devices takes.
HALF_PRECISION = (torch.bfloat16, torch.float16)
# Longer sequences compute their scores anew on the way back instead of keeping them.
LONGEST_KEPT = 512


class PackedAttention(torch.autograd.Function):
    """Attention of packed rows [tokens, (heads + 2 key heads) * dim] to [tokens, heads * dim], in their dtype.

    softmax(scale q k^T) v for each sequence and head, by explicit products; a token sees those before it or, where
    attention is not causal, its whole sequence.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        layout: AttentionLayout,
        heads: int,
        key_heads: int,
        scale: float,
        window: int | None,
        softcap: float | None,
        causal: bool = True,
    ) -> Tensor:
        """Attend; see the class."""
        ctx.layout, ctx.heads, ctx.key_heads, ctx.causal = layout, heads, key_heads, causal
        ctx.scale, ctx.window, ctx.softcap = scale, window, softcap
        index = layout.heads(heads, key_heads)
        dim = rows.shape[1] // (heads + 2 * key_heads)
        padded = rows.reshape(-1, dim).index_select(0, index.gather)
        out = padded.new_empty(index.queries, dim)
        kept: list[Tensor] = []
        for q, k, v, o, hidden, bucket in _parts(padded, out, layout, heads, key_heads, causal):
            for block in range(bucket.blocks):
                bias = _bias(bucket, block, window, q[block], hidden)
                weights = _weights(q[block], k, bias, scale, softcap)
                torch.bmm(weights[0], v[:, : weights[0].shape[-1]], out=o[block])
                if bucket.keys <= LONGEST_KEPT:
                    kept.extend(weights)
        ctx.save_for_backward(padded, *kept)
        return out.index_select(0, index.out_scatter).view(-1, heads * dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the rows."""
        padded, *weights = ctx.saved_tensors
        kept = iter(weights)
        index = ctx.layout.heads(ctx.heads, ctx.key_heads)
        dim = padded.shape[1]
        to_out = gradients[0].reshape(-1, dim).index_select(0, index.out_gather)
        # What flows back from padding is zero, and stays zero through every product below.
        to_out.index_fill_(0, index.nothing, 0.0)
        to_padded = torch.empty_like(padded)
        parts = _parts(padded, to_out, ctx.layout, ctx.heads, ctx.key_heads, ctx.causal)
        for (q, k, v, to_o, hidden, bucket), (to_q, to_k, to_v, *_) in zip(
            parts, _parts(to_padded, to_out, ctx.layout, ctx.heads, ctx.key_heads, ctx.causal), strict=True
        ):
            # The last block sees all keys, so it writes their gradients; the others add to them.
            stored = None
            if bucket.keys <= LONGEST_KEPT:
                each = 1 if ctx.softcap is None else 2
                stored = [tuple(next(kept) for _ in range(each)) for _ in range(bucket.blocks)]
            for block in reversed(range(bucket.blocks)):
                query, to_output = q[block], to_o[block]
                attended = (
                    stored[block]
                    if stored is not None
                    else _weights(query, k, _bias(bucket, block, ctx.window, query, hidden), ctx.scale, ctx.softcap)
                )
                seen = attended[0].shape[-1]
                to_weights = torch.bmm(to_output, v[:, :seen].transpose(1, 2))
                to_scores = torch._softmax_backward_data(to_weights, attended[0], -1, padded.dtype)
                if ctx.softcap is not None:
                    to_scores.mul_(1 - attended[1].square())
                _product(to_q[block], to_scores, k[:, :seen], ctx.scale)
                if block == bucket.blocks - 1:
                    _product(to_v, attended[0].transpose(1, 2), to_output, 1.0)
                    _product(to_k, to_scores.transpose(1, 2), query, ctx.scale)
                else:
                    to_v[:, :seen] += torch.bmm(attended[0].transpose(1, 2), to_output)
                    to_k[:, :seen].add_(torch.bmm(to_scores.transpose(1, 2), query), alpha=ctx.scale)
        to_rows = to_padded.index_select(0, index.scatter)
        if len(index.shared_rows):
            to_rows.index_add_(0, index.shared_rows, to_padded.index_select(0, index.shared_places))
        return to_rows.view(len(gradients[0]), -1), None, None, None, None, None, None, None


def _product(result: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Result = scale * left @ right, batched; what the result held is not read."""
    torch.baddbmm(result, left, right, beta=0.0, alpha=scale, out=result)


def _parts(
    padded: Tensor, out: Tensor, layout: AttentionLayout, heads: int, key_heads: int, causal: bool
) -> list[tuple[list[Tensor], Tensor, Tensor, list[Tensor], Tensor | None, Bucket]]:
    """Views of chunks of buckets: q and out (lists by block) [n, queries, dim], k and v [n, keys, dim].

    Here n is sequences * key heads. Beside them, where attention is not causal, which keys are padding [n, 1, keys]
    (`AttentionLayout.padding`). Every view is contiguous, without which products write through a slow path.
    """
    index = layout.heads(heads, key_heads)
    repeat = heads // key_heads
    parts = []
    query_start, key_start = 0, index.queries
    hidden = [None] * len(layout.buckets) if causal else layout.padding(key_heads)
    for bucket, nothing in zip(layout.buckets, hidden, strict=True):
        count = bucket.sequences * key_heads
        queries, keys = bucket.sequences * heads * bucket.length, count * bucket.keys
        value_start = key_start + index.keys
        q, o = (
            x[query_start : query_start + queries].view(bucket.blocks, count, repeat * bucket.block_length, -1)
            for x in (padded, out)
        )
        k, v = (padded[first : first + keys].view(count, bucket.keys, -1) for first in (key_start, value_start))
        at_once = max(1, MAX_SCORES // (heads * bucket.length * bucket.keys)) * key_heads
        for first in range(0, count, at_once):
            chunk = slice(first, first + at_once)
            unseen = None if nothing is None else nothing[chunk]
            parts.append(([*q[:, chunk]], k[chunk], v[chunk], [*o[:, chunk]], unseen, bucket))
        query_start, key_start = query_start + queries, key_start + keys
    return parts


def _weights(query: Tensor, keys: Tensor, bias: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, ...]:
    """Attention weights [n, queries, seen keys] of one block of queries; with a softcap, the tanh inside it, too."""
    seen = bias.shape[-1]
    transposed = keys[:, :seen].transpose(1, 2)
    if softcap is None:
        return (torch.softmax(torch.baddbmm(bias, query, transposed, alpha=scale), -1),)
    capped = torch.tanh(torch.bmm(query, transposed) * (scale / softcap))
    return torch.softmax(capped * softcap + bias, -1), capped


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: AttentionLayout,
    scale: float | None,
    window: int | None,
    causal: bool,
) -> Tensor:
    """The flash kernel for variable lengths (arXiv 2307.08691): [1, heads, tokens, dim] to [1, tokens, heads, dim]."""
    places = layout.variable_length
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if places.keys is not None:
        k, v = k.index_select(0, places.keys), v.index_select(0, places.keys)
    out = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        places.query_starts,
        places.key_starts,
        places.longest_query,
        places.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0 if causal else -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None]


def _bias(bucket: Bucket, block: int, window: int | None, query: Tensor, hidden: Tensor | None) -> Tensor:
    """What is added to the scores of a block of queries: 0 where a key is seen, else -inf."""
    if hidden is not None:
        return hidden
    return _causal_bias(bucket, block, window, query.shape[1] // bucket.block_length, query.dtype, query.device)


@lru_cache(maxsize=256)
def _causal_bias(
    bucket: Bucket, block: int, window: int | None, repeat: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """0 where a query of a block sees a key, else -inf: [repeat * queries, seen keys]."""
    first = block * bucket.block_length
    last = first + bucket.block_length
    own = bucket.prefix + torch.arange(last, device=device)
    place = torch.arange(bucket.padded_prefix, device=device)
    # Padding between the shared prompt and a sequence's own keys lies beyond everything.
    keys = torch.cat([torch.where(place < bucket.prefix, place, bucket.prefix + last), own])
    distance = own[first:, None] - keys
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf")).repeat(repeat, 1)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: AttentionLayout | None = None,
    packed_prefix: KeyValuePrefix | KeyValueRecorder | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Variable-length attention, the contract of transformers' attention interface.

    Args:
        module: the attention layer: its number, whether it is causal, its name in errors.
        query: [1, heads, tokens, dim].
        key: [1, key/value heads, tokens, dim].
        value: [1, key/value heads, tokens, dim].
        attention_mask: must be None: the layout says what attends to what.
        scaling: factor on the scores; default 1 / sqrt(dim).
        dropout: must be 0: the base model is frozen and in evaluation mode.
        packed_layout: where the sequences lie.
        packed_prefix: keys and values to put in place of those given, for prefix tuning.
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
    if packed_prefix is not None:
        key, value = packed_prefix.put_into_heads(key, value, int(module.layer_idx))  # type: ignore[arg-type]
    causal = bool(getattr(module, "is_causal", True))
    if sliding_window is not None and not causal:
        raise RuntimeError(f"{type(module).__name__} sees a window on both sides, not supported")
    heads, tokens, dim = query.shape[1:]
    if query.is_cuda and query.dtype in HALF_PRECISION and softcap is None and value.shape[-1] == dim:
        return _flash(query, key, value, packed_layout, scaling, sliding_window, causal), None
    size = value.shape[-1]
    value = torch.nn.functional.pad(value, (0, dim - size))
    rows = torch.cat([query, key, value], 1)[0].transpose(0, 1).reshape(tokens, -1)
    # On a CPU in fp32: the number of sequences differs in every step, and each new shape of a bf16 product is compiled
    # anew, which takes longer than the product.
    rows = rows.float() if rows.device.type == "cpu" else rows
    scale = dim**-0.5 if scaling is None else scaling
    out: Tensor = PackedAttention.apply(  # type: ignore[no-untyped-call]
        rows, packed_layout, heads, key.shape[1], scale, sliding_window, softcap, causal
    )
    return out.to(query.dtype).view(1, tokens, heads, dim)[..., :size], None


AttentionInterface.register(IMPLEMENTATION, packed_attention)
