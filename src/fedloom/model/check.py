"""Mistakes in a recipe's model section, found before any weight is read."""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from transformers import AutoConfig

from fedloom.errors import UserError
from fedloom.model.adapters.registry import adapter_layout
from fedloom.model.base import architecture, loading, resolve_base
from fedloom.model.checkpointing import decoder_layers
from fedloom.model.classes import is_causal
from fedloom.model.decoder_layer import frozen_layers
from fedloom.model.grouped_adapter import Layout
from fedloom.recipe.adapter_schema import VirtualTokensConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.recipe.schema import RuntimeConfig
from fedloom.recipe.task_schema import TaskConfig


def check_model(config: ModelConfig, runtime: RuntimeConfig, task: TaskConfig | None = None) -> Layout:
    """Find mistakes in the model section without reading a weight: the model is built on the meta device.

    Args:
        config: the recipe's model section.
        runtime: its runtime section.
        task: its task section; default: sft.

    Returns:
        What an adapter consists of.

    Raises:
        UserError: an unknown architecture, targets that the model does not have, or options without effect on it.
    """
    base, head = resolve_base(config.base), None if task is None else task.head
    kind = architecture(config, head)
    with loading(config, "config.json"):
        settings = AutoConfig.from_pretrained(base)
        if task is not None and head == "linear" and task.labels is not None:
            settings.num_labels = len(task.labels)
        with torch.device("meta"):
            model = kind.from_config(settings)
    if head is None and not is_causal(model):
        raise UserError(
            f"model.base: {config.base!r} is an encoder, whose tokens see what follows them: it can't learn to answer",
            hint="set task.kind: classification, or give a causal language model",
        )
    layout = adapter_layout(model, config.adapter)
    if config.quantization is not None:
        _check_quantization(config)
    if runtime.prefix_cache_gb is not None and frozen_layers(model, layout.layers) == 0:
        raise UserError(
            "runtime.prefix_cache_gb has no effect: no layer of a kind known here lies below the lowest adapter",
            hint="confine the adapters with model.adapter.layers, or leave the cache out",
        )
    if runtime.activation_checkpointing is True and not decoder_layers(model):
        raise UserError("runtime.activation_checkpointing has no effect: the model's decoder layers were not found")
    return layout


def check_positions(config: ModelConfig, longest: int) -> None:
    """Check that virtual tokens leave room for the text, without reading a weight.

    Args:
        config: the recipe's model section.
        longest: tokens of the longest example.

    Raises:
        UserError: where the model has fewer positions than both take together.
    """
    if not isinstance(config.adapter, VirtualTokensConfig):
        return
    settings = AutoConfig.from_pretrained(resolve_base(config.base)).get_text_config()
    positions, virtual = getattr(settings, "max_position_embeddings", math.inf), config.adapter.virtual_tokens
    if virtual + longest > positions:
        room = positions - virtual
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
