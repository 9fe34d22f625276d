"""Mistakes in a recipe's model section, found before any weight is read."""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from transformers import AutoConfig, PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.adapters.registry import adapter_class, adapter_layout
from fedloom.model.base import architecture, loading, resolve_base
from fedloom.model.checkpointing import decoder_layers
from fedloom.model.classes import first_position, is_causal
from fedloom.model.decoder_layer import frozen_layers
from fedloom.model.grouped_adapter import Layout
from fedloom.model.start import check_start
from fedloom.model.units import find_blocks
from fedloom.recipe.adapter_schema import VirtualTokensConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.recipe.schema import RuntimeConfig
from fedloom.recipe.task_schema import TaskConfig


def check_model(
    config: ModelConfig, runtime: RuntimeConfig, task: TaskConfig | None = None, pruned: bool = False
) -> Layout:
    """Find mistakes in the model section without reading a weight: the model is built on the meta device.

    Args:
        config: the recipe's model section.
        runtime: its runtime section.
        task: its task section; default: sft.
        pruned: whether clients leave out units of the model.

    Returns:
        What an adapter consists of.

    Raises:
        UserError: an unknown architecture, targets that the model does not have, a start that is no such adapter,
            units that are not known, or options without effect on it.
    """
    model = _on_meta(config, task)
    if pruned:
        find_blocks(model)
    if (task is None or task.head is None) and not is_causal(model):
        raise UserError(
            f"model.base: {config.base!r} is an encoder, whose tokens see what follows them: it can't learn to answer",
            hint="set task.kind: classification, or give a causal language model",
        )
    layout = adapter_layout(model, config.adapter)
    check_start(config.adapter, layout, adapter_class(config.adapter.kind).shapes_of_head(model))
    if config.quantization is not None:
        if task is not None and task.head is not None:
            raise UserError(
                f"model.quantization: {config.quantization} is not there yet for task.kind classification: nobody has "
                "tested it on a model with a head of its own",
                hint="leave it out: encoders are small",
            )
        _check_quantization(config)
    if runtime.prefix_cache_gb is not None and frozen_layers(model, layout.layers) == 0:
        raise UserError(
            "runtime.prefix_cache_gb has no effect: no layer of a kind known here lies below the lowest adapter",
            hint="confine the adapters with model.adapter.layers, or leave the cache out",
        )
    if runtime.activation_checkpointing is True and not decoder_layers(model):
        raise UserError("runtime.activation_checkpointing has no effect: the model's decoder layers were not found")
    return layout


def _on_meta(config: ModelConfig, task: TaskConfig | None) -> PreTrainedModel:
    """The model as its config alone says, without weights."""
    kind = architecture(config, None if task is None else task.head)
    with loading(config, "config.json"):
        settings = AutoConfig.from_pretrained(resolve_base(config.base))
        if task is not None and task.head == "linear" and task.labels is not None:
            settings.num_labels = len(task.labels)
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(settings)
    return model


def check_positions(config: ModelConfig, longest: int, task: TaskConfig | None = None) -> None:
    """Check that an encoder, or any model with virtual tokens, has room for the text, without reading a weight.

    Args:
        config: the recipe's model section.
        longest: tokens of the longest example.
        task: the recipe's task section; default: sft.

    Raises:
        UserError: where the model has fewer positions than they take.
    """
    virtual = config.adapter.virtual_tokens if isinstance(config.adapter, VirtualTokensConfig) else 0
    model = _on_meta(config, task)
    if not virtual and is_causal(model):
        return
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", math.inf) - first_position(model)
    if virtual + longest > positions:
        room = positions - virtual
        if not virtual:
            raise UserError(
                f"data.max_tokens: the longest example's {longest} tokens exceed the model's {positions} positions",
                hint=f"set data.max_tokens to {room} or less",
            )
        raise UserError(
            f"model.adapter.virtual_tokens: {virtual} and the longest example's {longest} tokens exceed the model's "
            f"{positions} positions",
            hint=f"set data.max_tokens to {room} or less" if room > 7 else "take fewer virtual tokens",
        )


def _check_quantization(config: ModelConfig) -> None:
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.quantization: {config.quantization} needs bitsandbytes, which is not installed",
            hint='pip install "fedloom[quantized]"',
        )
