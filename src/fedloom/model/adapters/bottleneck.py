"""Bottleneck adapters: small two-layer networks between the blocks of decoder layers.

h + up(activation(down(h))) after a layer's MLP (arXiv 2005.00247), or after both its blocks (arXiv 1902.00751).
PEFT has no such kind: a run leaves `bottleneck.safetensors` and `bottleneck.json`, which `load_bottleneck` puts on a
plain transformers model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.adapter_folder import read_tensors
from fedloom.model.adapter_products import adapter_dtype
from fedloom.model.adapters.per_group import change_output, product, shifted
from fedloom.model.adapters.targets import confined
from fedloom.model.base import resolve_base
from fedloom.model.checkpointing import decoder_layers
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter, Layout, Shapes
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import BottleneckConfig
from fedloom.recipe.model_schema import ModelConfig

CONFIG, WEIGHTS = "bottleneck.json", "bottleneck.safetensors"
PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
ACTIVATIONS = {"relu": torch.relu, "gelu": nn.functional.gelu, "silu": nn.functional.silu, "tanh": torch.tanh}
# What architectures call the two blocks of a decoder layer.
MLPS, ATTENTIONS = {"mlp", "feed_forward", "ffn"}, {"self_attn", "attn", "attention"}
# In BERT's layers, whose blocks add what came before them on their own: the last product of each, before that.
BERT_MLP, BERT_ATTENTION = "output.dense", "attention.output.dense"


class GroupedBottleneck(GroupedAdapter[BottleneckConfig]):
    """Bottleneck adapters on one model: hooks on the blocks of its decoder layers."""

    head_prefix = ""

    def __init__(self, model: PreTrainedModel, config: BottleneckConfig) -> None:
        super().__init__(model, config)
        self._activation = ACTIVATIONS[config.activation]
        for block in self.layers:
            change_output(model.get_submodule(block), partial(self._added, block))

    @classmethod
    def layout(cls, model: PreTrainedModel, config: BottleneckConfig) -> Layout:
        """See `GroupedAdapter`: weights and biases of both layers after each block."""
        blocks = confined(_blocks(model, config.after_attention), config.layers)
        hidden, shapes = int(model.config.get_text_config().hidden_size), Shapes()
        for block in blocks:
            sizes = ((config.size, hidden), (config.size,), (hidden, config.size), (hidden,))
            shapes |= dict(zip(_names(block), sizes, strict=True))
        return Layout(shapes, blocks)

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: down uniform as torch's linear layers are, up and both biases zero."""
        adapter = {name: torch.zeros(shape) for name, shape in self.own_shapes.items()}
        for block in self.layers:
            name = _names(block)[0]
            bound = 1 / math.sqrt(self.shapes[name][1])
            adapter[name].uniform_(-bound, bound, generator=torch_generator(seed, f"adapter {name}"))
        return adapter

    def write(self, folder: Path, adapter: Mapping[str, Tensor], model: PreTrainedModel, config: ModelConfig) -> None:
        """See `GroupedAdapter`: a format of Fedloom's own."""
        tensors = {name: adapter[name].contiguous() for name in self.shapes}
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
        # Where it started from is no part of what it is.
        settings = self.config.model_dump(mode="json", exclude={"start"}) | {
            "base": resolve_base(config.base),
            "blocks": self.layers,
        }
        (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def read(self, folder: Path) -> Adapter:
        """See `GroupedAdapter`."""
        return read_tensors(folder, WEIGHTS, lambda _: self.shapes)

    @staticmethod
    def opened(base: PreTrainedModel, folder: Path) -> Any:
        """See `GroupedAdapter`."""
        return load_bottleneck(base, folder)

    def _added(self, block: str, rows: Tensor) -> Tensor:
        dtype, starts = adapter_dtype(rows.device, rows.dtype), self.group_starts
        down, down_bias, up, up_bias = (self.parameters[name].to(dtype) for name in _names(block))
        wide = rows.to(dtype)
        inner = self._activation(shifted(product(wide, down, starts), down_bias, starts))
        return wide + shifted(product(inner, up, starts), up_bias, starts)


class Bottleneck(nn.Module):
    """One adapter on a plain model.

    Args:
        hidden: size of the activations.
        size: units of the hidden layer.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, hidden: int, size: int, activation: str) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, size), nn.Linear(size, hidden)
        self._activation = ACTIVATIONS[activation]

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [tokens, hidden] and what is added to them, in fp32."""
        added: Tensor = self.up(self._activation(self.down(rows.float())))
        return rows + added


def load_bottleneck(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put the bottleneck adapters that a run has left on a plain transformers model.

    Args:
        model: the base that they were trained on; changed in place.
        folder: the run's `adapter` folder.

    Returns:
        The model, with the adapters in fp32.

    Raises:
        UserError: where the folder holds none, or they do not fit the model.
    """
    path = Path(folder)
    try:
        settings = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        blocks = settings["blocks"]
        config = BottleneckConfig(**{key: settings[key] for key in BottleneckConfig.model_fields if key != "start"})
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: has no readable {CONFIG}") from None
    layout = GroupedBottleneck.layout(model, config)
    if blocks != layout.layers:
        raise UserError(f"{path}: made for other blocks than the model has, e.g. {blocks[:1]}")
    shapes = layout.shapes | GroupedBottleneck.shapes_of_head(model)
    tensors = read_tensors(path, WEIGHTS, lambda _: shapes)
    hidden = int(model.config.get_text_config().hidden_size)
    for block in blocks:
        module, adapter = model.get_submodule(block), Bottleneck(hidden, config.size, config.activation)
        # A child of its block: the tensors have the names that they are stored under, and the model's `to` moves them.
        module.add_module("bottleneck", adapter.to(model.device))
        change_output(module, adapter)
    model.load_state_dict(tensors, strict=False)
    return model


def _blocks(model: PreTrainedModel, after_attention: bool) -> list[str]:
    inside = {id(layer) for layer in decoder_layers(model)}
    layers = [(name, module) for name, module in model.named_modules() if id(module) in inside]
    blocks = []
    for name, module in layers:
        parts = dict(module.named_modules())
        like_bert = BERT_MLP in parts
        wanted = {BERT_MLP} if like_bert else MLPS
        if after_attention:
            wanted = wanted | ({BERT_ATTENTION} if like_bert else ATTENTIONS)
        blocks += [f"{name}.{part}" for part in parts if part in wanted]
    if len(blocks) < len(layers) * (1 + after_attention) or not layers:
        raise UserError(
            "model.adapter: the blocks of the model's decoder layers, which bottleneck needs, were not found"
        )
    return blocks


def _names(block: str) -> list[str]:
    return [f"{block}.bottleneck.{part}" for part in PARTS]
