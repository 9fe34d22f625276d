"""DoRA (arXiv 2402.09353): LoRA gives the direction of a layer's rows, a trained vector of magnitudes their size.

y = m / ||W + s B A|| * (x W^T + s x A^T B^T) + bias (eq. 5), the norm taken row by row and, as in the paper's
section 4.3 and in PEFT, a constant for gradients. W + s B A is never formed: its squared norms are
||W||^2 + 2 s (W A^T) . B + s^2 B (A A^T) . B, three small products for each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.model.adapter_products import adapter_dtype
from fedloom.model.adapters.lora import factor_shapes, initial_factor
from fedloom.model.adapters.per_group import product, scaled
from fedloom.model.adapters.targets import short_names, target_layers
from fedloom.model.grouped_adapter import PREFIX, Adapter, Layout, Shapes
from fedloom.model.peft_format import PeftFormat
from fedloom.recipe.adapter_schema import DoraConfig


class Dora(PeftFormat[DoraConfig]):
    """DoRA on one model: hooks on its target layers."""

    def __init__(self, model: PreTrainedModel, config: DoraConfig) -> None:
        super().__init__(model, config)
        self.scale = config.alpha / config.rank
        self._squared_norms: dict[str, Tensor] = {}
        for layer in self.layers:
            module = model.get_submodule(layer)
            assert isinstance(module, (nn.Linear, Conv1D))
            self.fan_in_fan_out = isinstance(module, Conv1D)
            self._squared_norms[layer] = _rows(module).square().sum(1)
            module.register_forward_hook(partial(self._turned, layer))

    @classmethod
    def layout(cls, model: PreTrainedModel, config: DoraConfig) -> Layout:
        """See `GroupedAdapter`: A, B and the magnitudes [outputs] of each target, under PEFT's names."""
        layers = target_layers(model, config)
        factors = factor_shapes(model, layers, config.rank)
        shapes: Shapes = {}
        for layer in layers:
            a, b, magnitudes = _names(layer)
            shapes |= {a: factors[a], b: factors[b], magnitudes: factors[b][:1]}
        return Layout(shapes, layers)

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: LoRA's A and B, and the norms of the base's rows."""
        adapter: Adapter = {}
        for layer in self.layers:
            a, b, magnitudes = _names(layer)
            adapter[a] = initial_factor(a, self.shapes[a], seed)
            adapter[b] = torch.zeros(self.shapes[b])
            adapter[magnitudes] = self._squared_norms[layer].sqrt().cpu()
        return adapter

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`."""
        return peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            use_dora=True,
            fan_in_fan_out=self.fan_in_fan_out,
            target_modules=short_names(model, self.layers) or self.layers,
        )

    def _turned(self, layer: str, module: nn.Linear | Conv1D, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, y = (values.reshape(-1, values.shape[-1]) for values in (given[0], output))
        a, b, magnitudes = (self.parameters[name] for name in _names(layer))
        norms = row_norms(_rows(module), self._squared_norms[layer], a.detach(), b.detach(), self.scale)
        dtype, starts = adapter_dtype(x.device, x.dtype), self.group_starts
        inner = product(x.to(dtype), a.to(dtype), starts)
        bias = module.bias
        plain = y.to(dtype) if bias is None else y.to(dtype) - bias.to(dtype)
        turned = plain + product(inner, (b * self.scale).to(dtype), starts)
        sized = scaled(turned, (magnitudes / norms).to(dtype), starts)
        return (sized if bias is None else sized + bias.to(dtype)).to(output.dtype).view(output.shape)


def row_norms(weight: Tensor, squared: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Norms of the rows of W + scale * B[g] A[g], for every group.

    Args:
        weight: W, fp32 [outputs, inputs].
        squared: the squared norms of its rows, fp32 [outputs].
        a: fp32 [groups, rank, inputs].
        b: fp32 [groups, outputs, rank].
        scale: alpha / rank.

    Returns:
        fp32 [groups, outputs].
    """
    norms = torch.empty(b.shape[:2], device=b.device)
    # Group by group: the last bits of a product may depend on how many rows it has.
    for group, (down, up) in enumerate(zip(a, b, strict=True)):
        inner = 2 * scale * (weight @ down.t()) + scale**2 * (up @ (down @ down.t()))
        norms[group] = (squared + (inner * up).sum(1)).sqrt()
    return norms


def _rows(module: nn.Linear | Conv1D) -> Tensor:
    """The layer's weight [outputs, inputs], fp32."""
    weight = module.weight.detach().float()
    return weight.t() if isinstance(module, Conv1D) else weight


def _names(layer: str) -> tuple[str, str, str]:
    name = f"{PREFIX}{layer}.lora_"
    return f"{name}A.weight", f"{name}B.weight", f"{name}magnitude_vector"
