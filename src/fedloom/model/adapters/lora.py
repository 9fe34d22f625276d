"""LoRA (arXiv 2106.09685) and rank-stabilised LoRA (arXiv 2312.03732): low-rank factors beside frozen layers.

Every token belongs to a group and group g has its own factors A[g] [rank, in] and B[g] [out, rank].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.model.adapter_products import Site, adapter_dtype, adapter_gradients, add_adapters, squared_gradients
from fedloom.model.adapters.per_group import product
from fedloom.model.adapters.targets import short_names, sizes, target_layers
from fedloom.model.grouped_adapter import PREFIX, Adapter, Layout, Shapes
from fedloom.model.peft_format import PeftFormat
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import LowRank, RsLoraConfig


class _GroupedLinear(torch.autograd.Function):
    """y = x W^T + bias, and for the tokens of group g also scale * (x A[g]^T) B[g]^T. W is frozen.

    With `squares`, see `GroupedAdapter.load_squares`, what comes back is no gradient of A and B but its square.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        starts: tuple[int, ...],
        squares: Tensor | None,
    ) -> Tensor:
        dtype = adapter_dtype(x.device, x.dtype)
        output = nn.functional.linear(x, weight, bias).to(dtype)
        sites = (Site(0, output.shape[1]),)
        inner, down, ups = add_adapters(output, x.to(dtype), (a, b), sites, scale, starts)
        ctx.save_for_backward(x, inner, weight, down, *ups)
        ctx.scale, ctx.starts, ctx.sites = scale, starts, sites
        return output.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, down, *ups = ctx.saved_tensors
        to_x = (gradients[0] @ weight).to(inner.dtype) if ctx.needs_input_grad[0] else None
        gradient, rows = gradients[0].to(inner.dtype), x.to(inner.dtype)
        arguments = gradient, rows, inner, down, ups, ctx.sites, ctx.scale, ctx.starts, to_x
        to_a = to_b = to_squares = None
        if ctx.needs_input_grad[7]:
            to_squares = squared_gradients(*arguments)
        else:
            to_a, to_b = adapter_gradients(*arguments)
        return None if to_x is None else to_x.to(x.dtype), None, None, to_a, to_b, None, None, to_squares


class GroupedLoraLayer(nn.Module):
    """A frozen linear layer with the adapters of all groups on top."""

    def __init__(self, base: nn.Linear | Conv1D, owner: GroupedLora, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name
        # In a tuple, so that torch does not register the owner (and through it the model) as a child.
        self._owner = (owner,)

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus the adapter of each token's group; x is [..., in], flattened over tokens."""
        owner = self._owner[0]
        a, b = self.factors()
        rows = x.reshape(-1, x.shape[-1])
        output = self._product(rows, a, b)
        if self.name in owner.base_change:
            # As factors, in the adapters' precision: rounded into a bf16 weight, small changes would be lost.
            down, up = owner.base_change[self.name]
            output = (output + (rows.to(down.dtype) @ down.t()) @ up.t()).to(output.dtype)
        return output.view(*x.shape[:-1], -1)

    def _product(self, rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
        owner, base = self._owner[0], self.base
        if not base.weight.is_floating_point():
            # A quantised layer alone knows how to multiply with its weight.
            dtype, starts = adapter_dtype(rows.device, rows.dtype), owner.group_starts
            inner = product(rows.to(dtype), a.to(dtype), starts)
            added = product(inner, (b * owner.scale).to(dtype), starts)
            together: Tensor = base(rows).to(dtype) + added
            return together.to(rows.dtype)
        weight: Tensor = base.weight.t() if isinstance(base, Conv1D) else base.weight
        bias: Tensor | None = base.bias
        if owner.pruned is not None:
            weight, bias = owner.pruned.weights(self.name, weight, bias)
        output: Tensor = _GroupedLinear.apply(  # type: ignore[no-untyped-call]
            rows, weight, bias, a, b, owner.scale, owner.group_starts, owner.squares
        )
        return output

    def factors(self) -> tuple[Tensor, Tensor]:
        """The loaded factors A [groups, rank, in] and B [groups, out, rank]; [1, ...] where all groups share them.

        Where passes leave out rows and columns of the layer (`pruned_pass`), those of the factors are left out, too.
        """
        owner, name = self._owner[0], f"{PREFIX}{self.name}.lora_"
        a, b = owner.parameters[f"{name}A.weight"], owner.parameters[f"{name}B.weight"]
        if owner.pruned is not None and self.name in owner.pruned.slices:
            rows, columns = owner.pruned.slices[self.name]
            a, b = a if columns is None else a.index_select(2, columns), b if rows is None else b.index_select(1, rows)
        return (a, b) if owner.squares is None else (a[:1], b[:1])


class GroupedLora(PeftFormat[LowRank]):
    """LoRA on one model; its target layers are wrapped in place."""

    fits_own_layers = True

    def __init__(self, model: PreTrainedModel, config: LowRank) -> None:
        super().__init__(model, config)
        self.scale = config.scale
        self._base_change: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.layers:
            parent = model.get_submodule(name.rpartition(".")[0])
            base = model.get_submodule(name)
            assert isinstance(base, (nn.Linear, Conv1D))
            self.fan_in_fan_out = isinstance(base, Conv1D)
            # A quantised layer multiplies by operations that know gradients only.
            self.has_squares = base.weight.is_floating_point()
            setattr(parent, name.rpartition(".")[2], GroupedLoraLayer(base, self, name))

    @classmethod
    def layout(cls, model: PreTrainedModel, config: LowRank) -> Layout:
        """See `GroupedAdapter`: A and B of each target, under PEFT's names."""
        layers = target_layers(model, config)
        return Layout(factor_shapes(model, layers, config.largest_rank), layers)

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: A as `initial_factor` draws it, B zero."""
        return {
            name: initial_factor(name, shape, seed) if ".lora_A." in name else torch.zeros(shape)
            for name, shape in self.own_shapes.items()
        }

    @property
    def base_change(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What algorithms have added to the weights of layers: factors A [R, in] and B [out, R], for all groups."""
        return {} if self._loaded.original_base else self._base_change

    def change_base(self, broadcast: Mapping[str, Tensor]) -> None:
        """Add products of factors to the weights of adapted layers, for all groups and threads; earlier ones go.

        Args:
            broadcast: "base/<layer>.lora_A.weight" [R, in] and "base/<layer>.lora_B.weight" [out, R] of each changed
                layer, beside anything else.
        """
        names = {layer: f"base/{PREFIX}{layer}.lora_" for layer in self.layers}
        dtype = adapter_dtype(self.device, self.dtype)
        self._base_change = {
            layer: (
                broadcast[name + "A.weight"].to(self.device, dtype),
                broadcast[name + "B.weight"].to(self.device, dtype),
            )
            for layer, name in names.items()
            if name + "A.weight" in broadcast and len(broadcast[name + "A.weight"])
        }

    def effective(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """An adapter, its B multiplied with the square factors between A and B where it has any (Fed-SB)."""
        found: Adapter = {}
        for name in self.shapes:
            square = adapter.get(name.replace(".lora_B.", ".lora_R.")) if ".lora_B." in name else None
            found[name] = adapter[name] if square is None else adapter[name] @ square
        return found

    def flatten(self, adapter: Mapping[str, Tensor]) -> Tensor:
        """See `GroupedAdapter`; square factors are multiplied into B."""
        return super().flatten(self.effective(adapter))

    def exported(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """See `PeftFormat`: changes of the base become further rows and columns of A and B."""
        found = self.effective(adapter)
        for name in found:
            if f"base/{name}" in adapter:
                change = adapter[f"base/{name}"]
                # The change has no scale of its own, and A and B have LoRA's.
                further = change if ".lora_A." in name else change / self.scale
                found[name] = torch.cat([found[name], further.to(found[name].dtype)], 0 if ".lora_A." in name else 1)
        return found

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`; layers whose rank is not the recipe's are named, the scale is the same everywhere."""
        stabilised = isinstance(self.config, RsLoraConfig)
        ranks = {layer: len(tensors[f"{PREFIX}{layer}.lora_A.weight"]) for layer in self.layers}
        other = {layer: rank for layer, rank in ranks.items() if rank != self.config.largest_rank}
        return peft.LoraConfig(
            r=self.config.largest_rank,
            lora_alpha=self.config.alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            bias="none",
            use_rslora=stabilised,
            fan_in_fan_out=self.fan_in_fan_out,
            target_modules=short_names(model, self.layers) or self.layers,
            rank_pattern=other,
            alpha_pattern={
                layer: self.scale * (math.sqrt(rank) if stabilised else rank) for layer, rank in other.items()
            },
        )

    def stored_shapes(self, tensors: Mapping[str, Tensor]) -> Shapes:
        """See `PeftFormat`: the layout's, with any rank from the layout's up."""
        shapes = dict(self.own_shapes)
        for name, (rows, columns) in self.own_shapes.items():
            if name in tensors and tensors[name].dim() == 2:
                given_rows, given_columns = tensors[name].shape
                in_a = ".lora_A." in name
                shapes[name] = (max(rows, given_rows), columns) if in_a else (rows, max(columns, given_columns))
        return shapes

    def imported(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """See `PeftFormat`: what exceeds the layout's rank is a change of the base model."""
        adapter: Adapter = {}
        for name, (rows, columns) in self.own_shapes.items():
            value = tensors[name]
            adapter[name] = value[:rows, :columns]
            if value.shape != (rows, columns):
                adapter[f"base/{name}"] = value[rows:] if ".lora_A." in name else value[:, columns:] * self.scale
        return adapter


def factor_shapes(model: PreTrainedModel, layers: list[str], rank: int) -> Shapes:
    """The shapes of A and B on each of some layers.

    Args:
        model: the base (weights may be on the meta device).
        layers: full names.
        rank: the factors' inner size.

    Returns:
        Under PEFT's names, A and B of each layer in turn.
    """
    shapes: Shapes = {}
    for layer in layers:
        inputs, outputs = sizes(model.get_submodule(layer))
        shapes[f"{PREFIX}{layer}.lora_A.weight"] = (rank, inputs)
        shapes[f"{PREFIX}{layer}.lora_B.weight"] = (outputs, rank)
    return shapes


def initial_factor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """A fresh A, uniform as in PEFT (Kaiming, a = sqrt 5); with a B of zeros the model is the base model.

    Args:
        name: its full name.
        shape: [rank, in].
        seed: the recipe's.

    Returns:
        fp32.
    """
    bound = math.sqrt(1 / shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=torch_generator(seed, f"adapter {name}"))
