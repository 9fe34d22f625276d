"""The decoder layer of the Llama family, written for a frozen base: forwards and backwards by hand.

Only activations and adapters get gradients, so three things pay that a general implementation cannot do. Layers that
share an input are one matrix product in both directions (query, key, value; gate, up). Everything between two products
is fp32, with few passes over memory, and rounded once, where it enters the next product: on CPUs elementwise fp32 is
faster than bf16, and the residual stream is more exact for it. And only what the way back needs is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.model.adapter_products import adapter_gradients, add_adapters, squared_gradients
from fedloom.model.adapters.lora import GroupedLora
from fedloom.model.adapters.targets import layer_number
from fedloom.model.attention import PackedAttention
from fedloom.model.attention_layout import AttentionLayout
from fedloom.model.frozen_linear import FrozenLinear, Slice, side_by_side
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.key_value_prefix import KeyValuePrefix, KeyValueRecorder

# Layers of these classes compute what `DecoderLayer` computes (tests/model/test_decoder_layer.py compares them).
FAMILY = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}

_AdapterGradients = list[Tensor | None]


@dataclass(frozen=True)
class _Adapters:
    """What the adapters of a pass have in common: their scale, where the groups lie, and what is asked for.

    `squared`: squares of gradients, see `GroupedAdapter.load_squares`.
    """

    scale: float
    starts: tuple[int, ...]
    squared: bool


@dataclass(frozen=True)
class _Weights:
    """The linear layers of a decoder layer: query, key and value, output; gate and up, down."""

    projections: FrozenLinear
    output: FrozenLinear
    gate_up: FrozenLinear
    down: FrozenLinear

    def sliced(self, slices: Mapping[str, Slice]) -> _Weights:
        """The same without the rows and columns of units that a client left out."""
        parts = self.projections, self.output, self.gate_up, self.down
        return _Weights(*(part.sliced(slices) for part in parts))


@dataclass(frozen=True)
class LabelRows:
    """The rows of a pass that go on to the output head.

    Args:
        positions: int64 [rows], the tokens that predict a label, then filler.
        group_starts: groups + 1 positions among the rows; what comes after the last is filler.
    """

    positions: Tensor
    group_starts: tuple[int, ...]


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows W^T + bias in the weight's format, given and returned in fp32."""
    return nn.functional.linear(rows.to(weight.dtype), weight, bias).float()


def _back_product(gradient: Tensor, weight: Tensor) -> Tensor:
    return (gradient.to(weight.dtype) @ weight).float()


class _NormedProjection(torch.autograd.Function):
    """RMSNorm (arXiv 1910.07467), then frozen linear layers side by side with their adapters; fp32 in, fp32 out."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        epsilon: float,
        frozen: FrozenLinear,
        adapters: _Adapters,
        squares: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = (x * inverse).mul_(norm)
        output = _product(normed, frozen.weight, frozen.bias)
        kept: tuple[Tensor, ...] = ()
        if factors:
            inner, down, ups = add_adapters(output, normed, factors, frozen.sites, adapters.scale, adapters.starts)
            kept = (inner, down, *ups)
        ctx.save_for_backward(x, norm, inverse, *kept)
        ctx.frozen, ctx.adapters = frozen, adapters
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, inverse, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        to_normed = _back_product(gradients[0], ctx.frozen.weight) if wanted else None
        scaled = x * inverse
        to_adapters: _AdapterGradients = [None]
        if kept:
            to_adapters = _adapter_gradients(ctx, gradients[0], scaled * norm, kept, to_normed)
        if to_normed is not None:
            to_normed.mul_(norm)
            mean = (to_normed * scaled).mean(-1, keepdim=True)
            to_normed.addcmul_(scaled, mean, value=-1).mul_(inverse)
        return to_normed, None, None, None, None, *to_adapters


class _ResidualProjection(torch.autograd.Function):
    """residual + x W^T + bias + adapter; fp32 in, fp32 out."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        frozen: FrozenLinear,
        adapters: _Adapters,
        squares: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        output = _product(x, frozen.weight, frozen.bias)
        if factors:
            inner, down, ups = add_adapters(output, x, factors, frozen.sites, adapters.scale, adapters.starts)
            ctx.save_for_backward(x, inner, down, *ups)
        ctx.frozen, ctx.adapters = frozen, adapters
        return output.add_(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_x = _back_product(gradients[0], ctx.frozen.weight) if ctx.needs_input_grad[1] else None
        to_adapters: _AdapterGradients = [None]
        if saved := ctx.saved_tensors:
            x, *kept = saved
            to_adapters = _adapter_gradients(ctx, gradients[0], x, kept, to_x)
        return gradients[0], to_x, None, None, *to_adapters


def _adapter_gradients(
    ctx: Any, gradient: Tensor, rows: Tensor, kept: Sequence[Tensor], to_rows: Tensor | None
) -> _AdapterGradients:
    """The way back to adapters: nothing and the factors' gradients, or the squares of those and nothing further."""
    inner, down, *ups = kept
    frozen, adapters = ctx.frozen, ctx.adapters
    arguments = gradient, rows, inner, down, ups, frozen.sites, adapters.scale, adapters.starts, to_rows
    if adapters.squared:
        return [squared_gradients(*arguments), *(None for _ in range(2 * len(ups)))]
    return [None, *adapter_gradients(*arguments)]


class _Rotary(torch.autograd.Function):
    """Rotary positions (arXiv 2104.09864) on the first columns of [tokens, columns], the rest unchanged."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, cos: Tensor, sin: Tensor, columns: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.columns = columns
        return _rotate(rows, cos, sin, columns, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradients[0], cos, sin, ctx.columns, -1), None, None, None


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor, columns: int, direction: int) -> Tensor:
    """Turn the pairs (first half, second half) of every head by the angle, or by its negative."""
    output = torch.empty_like(rows)
    output[:, columns:] = rows[:, columns:]
    size = cos.shape[-1]
    heads, turned = (x[:, :columns].view(len(rows), -1, size) for x in (rows, output))
    torch.mul(heads, cos, out=turned)
    first, second = turned.chunk(2, -1)
    one, two = heads.chunk(2, -1)
    half = sin[..., : size // 2]
    first.addcmul_(two, half, value=-direction)
    second.addcmul_(one, half, value=direction)
    return output


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up of rows [tokens, gate | up] (arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gate, up = rows.chunk(2, -1)
        activated = nn.functional.silu(gate)
        # Kept, because an exponential costs more than all other work on the way back together.
        ctx.save_for_backward(rows, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        rows, activated = ctx.saved_tensors
        gate, up = rows.chunk(2, -1)
        output = torch.empty_like(rows)
        to_gate, to_up = output.chunk(2, -1)
        torch.mul(gradients[0], activated, out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=to_gate)
        return output


class DecoderLayer:
    """Takes the place of a decoder layer's forward; its weights stay where they are.

    Args:
        layer: the layer of the base model, its linear layers possibly wrapped.
        grouped: the adapters.
        last: whether nothing but the output head comes after it: then only labelled positions go on after attention.
        name: the layer's full name.
    """

    def __init__(self, layer: Any, grouped: GroupedAdapter[Any], last: bool, name: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.grouped = grouped
        self.adapter_scale = grouped.scale if isinstance(grouped, GroupedLora) else 1.0
        self.last = last
        self.number = int(attention.layer_idx)
        self.input_norm, self.input_epsilon = _norm(layer.input_layernorm)
        self.middle_norm, self.middle_epsilon = _norm(layer.post_attention_layernorm)
        self.weights = _Weights(
            side_by_side(attention, f"{name}.self_attn", ["q_proj", "k_proj", "v_proj"]),
            side_by_side(attention, f"{name}.self_attn", ["o_proj"]),
            side_by_side(mlp, f"{name}.mlp", ["gate_proj", "up_proj"]),
            side_by_side(mlp, f"{name}.mlp", ["down_proj"]),
        )
        self.head_size = attention.head_dim
        self.scale = attention.scaling
        per_layer = type(layer).__name__.startswith("Qwen2")
        self.window = getattr(attention if per_layer else attention.config, "sliding_window", None)

    def __call__(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        packed_layout: AttentionLayout,
        packed_labels: LabelRows | None = None,
        packed_prefix: KeyValuePrefix | KeyValueRecorder | None = None,
        **_: Any,
    ) -> Tensor:
        """Carry [1, tokens, size] through the layer; the contract of transformers' decoder layers.

        Args:
            hidden_states: activations; what comes out is fp32.
            position_embeddings: cosine and sine of every token's angles, [1, tokens, head size] each.
            packed_layout: where the sequences lie.
            packed_labels: the rows that go on to the output head; the last layer needs them.
            packed_prefix: keys and values to put in place of those computed, for prefix tuning.
            _: what other implementations need.

        Returns:
            fp32 [1, tokens, size]; of the last layer [1, label rows, size].
        """
        x = hidden_states[0].float()
        cos, sin = (table[0, :, None].float() for table in position_embeddings)
        squared = self.grouped.squares is not None
        adapters = _Adapters(self.adapter_scale, self.grouped.group_starts, squared)
        pruned, weights = self.grouped.pruned, self.weights
        if pruned is not None and pruned.slices:
            weights = pruned.once(self.number, lambda: self.weights.sliced(pruned.slices))
        queries, keys, _ = (size // self.head_size for size in weights.projections.sizes)
        rows = self._normed(x, self.input_norm, self.input_epsilon, weights.projections, adapters)
        columns = (queries + keys) * self.head_size
        rows = _Rotary.apply(rows, cos, sin, columns)  # type: ignore[no-untyped-call]
        if packed_prefix is not None:
            rows = packed_prefix.put_into_rows(rows, self.number)
        attended = PackedAttention.apply(  # type: ignore[no-untyped-call]
            rows, packed_layout, queries, keys, self.scale, self.window, None
        )
        if self.last:
            assert packed_labels is not None
            x, attended = (values.index_select(0, packed_labels.positions) for values in (x, attended))
            adapters = _Adapters(self.adapter_scale, packed_labels.group_starts, squared)
        if pruned is not None:
            attended = pruned.masked(weights.output.names[0], attended, adapters.starts)
        x = self._residual(x, attended, weights.output, adapters)
        gated = _GatedSilu.apply(  # type: ignore[no-untyped-call]
            self._normed(x, self.middle_norm, self.middle_epsilon, weights.gate_up, adapters)
        )
        if pruned is not None:
            gated = pruned.masked(weights.down.names[0], gated, adapters.starts)
        return self._residual(x, gated, weights.down, adapters)[None]

    def _normed(self, x: Tensor, norm: Tensor, epsilon: float, frozen: FrozenLinear, adapters: _Adapters) -> Tensor:
        output: Tensor = _NormedProjection.apply(  # type: ignore[no-untyped-call]
            x, norm, epsilon, frozen, adapters, self.grouped.squares, *self._factors(frozen)
        )
        return output

    def _residual(self, residual: Tensor, x: Tensor, frozen: FrozenLinear, adapters: _Adapters) -> Tensor:
        output: Tensor = _ResidualProjection.apply(  # type: ignore[no-untyped-call]
            residual, x, frozen, adapters, self.grouped.squares, *self._factors(frozen)
        )
        return output

    def _factors(self, frozen: FrozenLinear) -> list[Tensor]:
        return [factor for layer in frozen.adapted for factor in layer.factors()]


def use_own_layers(model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> None:
    """Compute the decoder layers of the Llama family by `DecoderLayer`, on CPUs; leave other models as they are.

    Args:
        model: the frozen base, its target layers wrapped.
        grouped: the adapters; `own_layers` says what was done: then the last hidden states are those of label rows.
    """
    layers = {name: module for name, module in model.named_modules() if type(module).__name__ in FAMILY}
    if not (
        layers
        and (grouped.plain_head or grouped.reader)
        and grouped.device.type == "cpu"
        and all(_is_plain(layer) for layer in layers.values())
    ):
        return
    for number, (name, layer) in enumerate(layers.items(), start=1):
        # The instance's forward hides the class's: names, weights and hooks of the model stay as they were.
        layer.forward = DecoderLayer(layer, grouped, number == len(layers), name).__call__
    grouped.own_layers = grouped.last_at_labels = True


def frozen_layers(model: PreTrainedModel, targets: Sequence[str]) -> int:
    """How many decoder layers lie below the lowest one with an adapter.

    Args:
        model: the base model (weights may be on the meta device).
        targets: names of the modules that its adapter changes.

    Returns:
        Their number; 0 for models outside of the Llama family.
    """
    if not any(type(module).__name__ in FAMILY for module in model.modules()):
        return 0
    return min((layer_number(name) or 0 for name in targets), default=0)


def _is_plain(layer: Any) -> bool:
    return isinstance(layer.mlp.act_fn, nn.SiLU) or type(layer.mlp.act_fn).__name__ == "SiLUActivation"


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight.detach().float(), float(module.variance_epsilon)
