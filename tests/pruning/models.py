"""Small models of which units can be left out, and smaller ones built from them by hand, in plain transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fedloom.aggregation.kept_units import cut
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.classes import Classes
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.grouped_adapter import Adapter
from fedloom.model.packing import Example
from fedloom.model.pruned_pass import make_prunable
from fedloom.model.units import find_blocks, ties_of
from fedloom.recipe.model_schema import ModelConfig
from tests.encoders import tiny_bert, tiny_roberta
from tests.model.test_packed_models import SIZES

ENCODERS = {"bert": tiny_bert, "roberta": tiny_roberta}
# Whether our own decoder layers compute it is the last part of a name.
MODELS = ("llama own", "llama plain", "qwen2 own", "bert plain", "roberta plain")
LINEAR = Classes("linear", 3)
# Of a layer: what belongs to heads, what reads it, what belongs to neurons, what reads it.
PARTS = {
    True: (
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
    ),
    False: (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
    ),
}


class Opened:
    """A model with adapters on all of its linear layers, made prunable."""

    def __init__(self, name: str, folder: Path) -> None:
        kind, _, how = name.partition(" ")
        self.encoder = kind in ENCODERS
        self.folder = folder
        if self.encoder:
            ENCODERS[kind](folder)
        else:
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES)).save_pretrained(folder)
            (folder / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
        config = ModelConfig(
            base=str(folder), dtype="float32", adapter={"kind": "lora", "targets": "all-linear", "rank": 2}
        )
        classes = LINEAR if self.encoder else None
        self.model = load_base(config, torch.device("cpu"), classes)
        self.grouped: Any = build_adapter(self.model, config.adapter, classes)
        if how == "own":
            use_own_layers(self.model, self.grouped)
        self.blocks = find_blocks(self.model)
        make_prunable(self.model, self.grouped, self.blocks)
        self.ties = ties_of(self.blocks, self.grouped.shapes)
        self.heads = self.blocks[0].count
        self.neurons = self.blocks[1].count

    def examples(self, lengths: Sequence[int], seed: int = 0) -> list[Example]:
        draw = np.random.default_rng(seed)
        return [
            Example(draw.integers(5, 90, length), np.full(length, not self.encoder), label=number % 3)
            if self.encoder
            else Example(draw.integers(5, 90, length), np.ones(length, dtype=bool))
            for number, length in enumerate(lengths)
        ]

    def adapters(self, count: int) -> list[Adapter]:
        """Adapters whose every entry matters."""
        draw = torch.Generator().manual_seed(0)
        return [
            {
                name: value + 0.05 * torch.randn(value.shape, generator=draw)
                for name, value in self.grouped.initial(0).items()
            }
            for _ in range(count)
        ]

    def smaller(self, kept: Tensor, adapter: Adapter | None = None) -> Any:
        """A transformers model without the units that are not kept, with PEFT's LoRA on it: built by hand."""
        kind = AutoModelForSequenceClassification if self.encoder else AutoModelForCausalLM
        options = {"num_labels": 3} if self.encoder else {}
        model = kind.from_pretrained(self.folder, dtype=torch.float32, attn_implementation="eager", **options).eval()
        layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 2)
        bits = kept.split([self.heads, self.neurons] * 2)
        inside, reader, neurons, after = PARTS[self.encoder]
        for number, layer in enumerate(layers):
            heads, units = bits[2 * number], bits[2 * number + 1]
            for name in inside:
                _replace(layer, name, heads, 0)
            _replace(layer, reader, heads, 1)
            for name in neurons:
                _replace(layer, name, units, 0)
            _replace(layer, after, units, 1)
        if adapter is None:
            return model
        head = {name.removeprefix("base_model.model."): adapter[name] for name in self.grouped.head_names}
        model.load_state_dict(head, strict=False)
        targets = list(self.grouped.layers)
        model = get_peft_model(model, LoraConfig(r=2, lora_alpha=2 * self.grouped.scale, target_modules=targets)).eval()
        loaded = set_peft_model_state_dict(model, cut(_factors(adapter), self.ties, kept))
        assert not loaded.unexpected_keys
        return model

    def plain_loss(self, model: Any, examples: Sequence[Example]) -> Tensor:
        """The mean loss of all labels, one example after another."""
        losses = []
        for example in examples:
            logits = model(input_ids=torch.from_numpy(example.tokens)[None]).logits[0]
            if self.encoder:
                losses.append(
                    nn.functional.cross_entropy(logits[None], torch.tensor([example.label]), reduction="none")
                )
            else:
                labels = torch.from_numpy(example.tokens[1:])
                losses.append(nn.functional.cross_entropy(logits[:-1], labels, reduction="none"))
        return torch.cat(losses).mean()

    def some_kept(self, seed: int = 0) -> Tensor:
        """Half of all neurons and heads, other ones in each layer."""
        draw = torch.Generator().manual_seed(seed)
        parts = []
        for block in self.blocks:
            part = torch.zeros(block.count, dtype=torch.bool)
            part[torch.randperm(block.count, generator=draw)[: block.count // 2]] = True
            parts.append(part)
        return torch.cat(parts)


def _replace(layer: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    """Rows or columns of whole units only: units lie one after another, as many rows of each."""
    old: Any = layer.get_submodule(name)
    weight = old.weight.detach() if dim == 0 else old.weight.detach().t()
    small = weight.reshape(len(kept), -1, weight.shape[1])[kept].flatten(0, 1)
    small = small if dim == 0 else small.t()
    new = nn.Linear(small.shape[1], small.shape[0], bias=old.bias is not None)
    new.weight.data = small.contiguous()
    if old.bias is not None:
        new.bias.data = old.bias.detach() if dim else old.bias.detach().reshape(len(kept), -1)[kept].flatten()
    parent, _, last = name.rpartition(".")
    setattr(layer.get_submodule(parent), last, new)


def _factors(adapter: Adapter) -> Adapter:
    return {name: value for name, value in adapter.items() if ".lora_" in name}
