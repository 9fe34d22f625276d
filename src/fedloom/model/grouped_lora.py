"""Grouped LoRA: the adapters of a whole cohort over one frozen base, trained in one pass.

Every token belongs to a group and group g has its own factors A[g] [rank, in] and B[g] [out, rank]
(LoRA, arXiv 2106.09685). Products never mix groups, so K clients in one pass train exactly as each would alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.errors import UserError, nearest
from fedloom.model.adapter_products import Site, adapter_dtype, adapter_gradients, add_adapters
from fedloom.model.head_loss import head_is_plain
from fedloom.randomness import torch_generator
from fedloom.recipe.model_schema import LoraConfig

# PEFT's names: everything written here loads in PEFT, TRL and vLLM.
PREFIX = "base_model.model."

if TYPE_CHECKING:
    from fedloom.model.frozen_prefix import FrozenPrefix

Adapter = dict[str, Tensor]


class _GroupedLinear(torch.autograd.Function):
    """y = x W^T + bias, and for the tokens of group g also scale * (x A[g]^T) B[g]^T. W is frozen."""

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
        to_a, to_b = adapter_gradients(gradient, rows, inner, down, ups, ctx.sites, ctx.scale, ctx.starts, to_x)
        return None if to_x is None else to_x.to(x.dtype), None, None, to_a, to_b, None, None


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
        weight = self.base.weight.t() if isinstance(self.base, Conv1D) else self.base.weight
        a, b = owner.factors(self.name)
        rows = x.reshape(-1, x.shape[-1])
        output: Tensor = _GroupedLinear.apply(  # type: ignore[no-untyped-call]
            rows, weight, self.base.bias, a, b, owner.scale, owner.group_starts
        )
        if self.name in owner.base_change:
            # As factors, in the adapters' precision: rounded into a bf16 weight, small changes would be lost.
            down, up = owner.base_change[self.name]
            output = (output + (rows.to(down.dtype) @ down.t()) @ up.t()).to(output.dtype)
        return output.view(*x.shape[:-1], -1)


class _Loaded(threading.local):
    """The adapters at work in one thread: cohorts may train side by side over the same base, a thread each."""

    def __init__(self) -> None:
        self.group_starts: tuple[int, ...] = ()
        self.values = self.gradients = torch.empty(0, 0)
        self.parameters: dict[str, Tensor] = {}
        self.gradient_views: dict[str, Tensor] = {}


class GroupedLora:
    """The adapters of a cohort on one model: where they live while they train.

    All groups' parameters are rows of one [groups, parameters] fp32 buffer, all gradients rows of another, so an
    optimiser works on two tensors and a client's gradient norm is the norm of one row. What `load` puts in place is
    seen by the calling thread only.

    Args:
        model: the frozen base; its target layers are wrapped in place.
        config: rank, scale and targets.
    """

    def __init__(self, model: PreTrainedModel, config: LoraConfig) -> None:
        self.scale = config.alpha / config.largest_rank
        self.plain_head = head_is_plain(model)
        # Whether the decoder layers are computed by `decoder_layer`; see `use_own_layers`.
        self.own_layers = False
        # What runs the layers below the lowest adapted one, where there are any; see `frozen_prefix`.
        self.frozen_prefix: FrozenPrefix | None = None
        # Whether layers keep their inputs only; see `checkpointing`.
        self.recompute = False
        # What algorithms have added to the weights of layers: factors A [R, in] and B [out, R], for all groups.
        self.base_change: dict[str, tuple[Tensor, Tensor]] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        self.layers = target_layers(model, config)
        for name in self.layers:
            parent = model.get_submodule(name.rpartition(".")[0])
            base = model.get_submodule(name)
            assert isinstance(base, (nn.Linear, Conv1D))
            inputs, outputs = _sizes(base)
            setattr(parent, name.rpartition(".")[2], GroupedLoraLayer(base, self, name))
            self.shapes[f"{PREFIX}{name}.lora_A.weight"] = (config.largest_rank, inputs)
            self.shapes[f"{PREFIX}{name}.lora_B.weight"] = (outputs, config.largest_rank)
        self.size = sum(rows * columns for rows, columns in self.shapes.values())
        self.device = next(model.parameters()).device
        self.dtype = model.dtype
        self._loaded = _Loaded()

    @property
    def values(self) -> Tensor:
        """The loaded adapters, fp32 [groups, parameters]."""
        return self._loaded.values

    @property
    def gradients(self) -> Tensor:
        """Their gradients, fp32 [groups, parameters]."""
        return self._loaded.gradients

    @property
    def group_starts(self) -> tuple[int, ...]:
        """Token positions of the groups in the batch at work; see `PackedBatch`."""
        return self._loaded.group_starts

    @group_starts.setter
    def group_starts(self, starts: tuple[int, ...]) -> None:
        self._loaded.group_starts = starts

    def loaded(self) -> dict[str, Any]:
        """What the calling thread has loaded, for `borrowed`."""
        return dict(self._loaded.__dict__)

    @contextmanager
    def borrowed(self, loaded: dict[str, Any]) -> Iterator[None]:
        """Work in this thread with what another one has loaded.

        Args:
            loaded: as `loaded` gave it there.
        """
        own = self.loaded()
        self._loaded.__dict__.update(loaded)
        try:
            yield
        finally:
            self._loaded.__dict__.update(own)

    def initial(self, seed: int) -> Adapter:
        """A fresh adapter: A uniform as in PEFT (Kaiming, a = sqrt 5), B zero, so the model is the base model.

        Args:
            seed: the recipe's seed.

        Returns:
            fp32 tensors under PEFT's names.
        """
        adapter: Adapter = {}
        for name, (rows, columns) in self.shapes.items():
            if ".lora_A." in name:
                bound = math.sqrt(1 / columns)
                generator = torch_generator(seed, f"adapter {name}")
                adapter[name] = torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)
            else:
                adapter[name] = torch.zeros(rows, columns)
        return adapter

    def load(self, adapters: Sequence[Mapping[str, Tensor]], trainable: bool = True) -> None:
        """Put one adapter into every group.

        Args:
            adapters: one for each group, fp32, PEFT's names.
            trainable: whether gradients will be asked for.
        """
        loaded = self._loaded
        loaded.values = torch.stack([self.flatten(adapter) for adapter in adapters]).to(self.device)
        loaded.gradients = torch.zeros_like(loaded.values) if trainable else loaded.values[:0]
        loaded.gradient_views = self.split(loaded.gradients)
        loaded.parameters = {
            name: view.detach().requires_grad_(trainable) for name, view in self.split(loaded.values).items()
        }

    def backward(self, loss: Tensor) -> None:
        """Overwrite `gradients` with those of a scalar loss.

        Args:
            loss: a scalar computed from the loaded adapters.
        """
        self._loaded.gradients.zero_()
        self.add_gradients(loss)

    def add_gradients(self, loss: Tensor) -> None:
        """Add those of a scalar loss to `gradients`.

        Args:
            loss: a scalar computed from the loaded adapters.
        """
        gradients = torch.autograd.grad(loss, list(self._loaded.parameters.values()))
        torch._foreach_add_(list(self._loaded.gradient_views.values()), list(gradients))

    def change_base(self, broadcast: Mapping[str, Tensor]) -> None:
        """Add products of factors to the weights of adapted layers, for all groups and threads; earlier ones go.

        Args:
            broadcast: "base/<layer>.lora_A.weight" [R, in] and "base/<layer>.lora_B.weight" [out, R] of each changed
                layer, beside anything else.
        """
        names = {layer: f"base/{PREFIX}{layer}.lora_" for layer in self.layers}
        dtype = adapter_dtype(self.device, self.dtype)
        self.base_change = {
            layer: (
                broadcast[name + "A.weight"].to(self.device, dtype),
                broadcast[name + "B.weight"].to(self.device, dtype),
            )
            for layer, name in names.items()
            if name + "A.weight" in broadcast and len(broadcast[name + "A.weight"])
        }

    def effective(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """An adapter's A and B, where it has square factors between them (Fed-SB) with these multiplied into B."""
        found: Adapter = {}
        for name in self.shapes:
            square = adapter.get(name.replace(".lora_B.", ".lora_R.")) if ".lora_B." in name else None
            found[name] = adapter[name] if square is None else adapter[name] @ square
        return found

    def flatten(self, adapter: Mapping[str, Tensor]) -> Tensor:
        """An adapter as one fp32 vector [parameters] in this model's order."""
        return torch.cat([value.reshape(-1).float() for value in self.effective(adapter).values()])

    def split(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views [groups, rows, columns] of a [groups, parameters] buffer, under PEFT's names."""
        views: dict[str, Tensor] = {}
        first = 0
        for name, (rows, columns) in self.shapes.items():
            views[name] = buffer[:, first : first + rows * columns].view(-1, rows, columns)
            first += rows * columns
        return views

    def unflatten(self, row: Tensor) -> Adapter:
        """The named tensors of one [parameters] vector, copied to the CPU."""
        row = row.detach().to("cpu", copy=True)
        return {name: view[0].clone() for name, view in self.split(row[None]).items()}

    def factors(self, layer: str) -> tuple[Tensor, Tensor]:
        """The stacked factors A [groups, rank, in] and B [groups, out, rank] of one layer."""
        name = f"{PREFIX}{layer}"
        parameters = self._loaded.parameters
        return parameters[f"{name}.lora_A.weight"], parameters[f"{name}.lora_B.weight"]


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of all layers that can carry an adapter: linear ones other than the output head."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    ]


def target_layers(model: PreTrainedModel, config: LoraConfig) -> list[str]:
    """Resolve the recipe's targets to layer names.

    Args:
        model: the base model (weights may be on the meta device).
        config: targets, and the decoder layers they are confined to.

    Returns:
        Full names, in the model's order.

    Raises:
        UserError: for a target that no linear layer matches, or a number that no decoder layer has.
    """
    layers, targets = linear_layers(model), config.targets
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    if targets != "all-linear":
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in layers):
                close = nearest(target, known)
                raise UserError(
                    f"model.adapter.targets: {target!r} matches no linear layer of the model; "
                    f"it has: {', '.join(known)}",
                    hint=f"did you mean {close!r}?" if close else None,
                )
        layers = [name for name in layers if any(name == t or name.endswith(f".{t}") for t in targets)]
    if config.layers is None:
        return layers
    numbers = sorted({number for name in layers if (number := layer_number(name)) is not None})
    for wanted in config.layers:
        if wanted not in numbers:
            raise UserError(
                f"model.adapter.layers: {wanted} is no decoder layer with a target; "
                f"there are {', '.join(map(str, numbers)) or 'none'}"
            )
    return [name for name in layers if layer_number(name) in config.layers]


def factors_of(layers: Sequence[str]) -> list[str]:
    """The names of the factors on layers: PEFT's.

    Args:
        layers: full names.

    Returns:
        A and B of each in turn.
    """
    return [f"{PREFIX}{layer}.lora_{factor}.weight" for layer in layers for factor in "AB"]


def layer_number(name: str) -> int | None:
    """The number of the decoder layer a linear layer belongs to.

    Args:
        name: its full name.

    Returns:
        Counted from 0 at the input; None outside of the decoder layers.
    """
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _sizes(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return int(layer.weight.shape[0]), int(layer.weight.shape[1])
