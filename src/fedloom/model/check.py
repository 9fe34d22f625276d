"""Mistakes in a recipe's model section, found before any weight is read."""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.errors import UserError
from fedloom.model.adapters.registry import adapter_class
from fedloom.model.base import loading, resolve_base
from fedloom.model.checkpointing import decoder_layers
from fedloom.model.decoder_layer import frozen_layers
from fedloom.model.grouped_adapter import Layout
from fedloom.model.start import check_start
from fedloom.recipe.adapter_schema import VirtualTokensConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.recipe.schema import RuntimeConfig


def check_model(config: ModelConfig, runtime: RuntimeConfig) -> Layout:
    """Find mistakes in the model section without reading a weight: the model is built on the meta device.

    Args:
        config: the recipe's model section.
        runtime: its runtime section.

    Returns:
        What an adapter consists of.

    Raises:
        UserError: an unknown architecture, targets that the model does not have, a start that is no such adapter, or
            options without effect on it.
    """
    base = resolve_base(config.base)
    with loading(config, "config.json"):
        settings = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    layout = adapter_class(config.adapter.kind).layout(model, config.adapter)
    check_start(config.adapter, layout)
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
