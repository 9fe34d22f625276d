"""Kinds of adapters by name."""

from __future__ import annotations

import importlib
from typing import Any

from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.class_reader import ClassReader
from fedloom.model.classes import Classes
from fedloom.model.encoder_layer import read_last_layer_at_labels
from fedloom.model.grouped_adapter import GroupedAdapter, Layout
from fedloom.recipe.adapter_schema import AdapterKind

# The name in a recipe, and where in this package its class is.
KINDS = {
    "lora": "lora:GroupedLora",
    "rslora": "lora:GroupedLora",
    "dora": "dora:Dora",
    "ia3": "ia3:Ia3",
    "bitfit": "bitfit:BitFit",
    "bottleneck": "bottleneck:GroupedBottleneck",
    "sparse": "sparse:GroupedSparse",
    "full": "full:FullModel",
    "prompt_tuning": "prompt_tuning:PromptTuning",
    "p_tuning": "p_tuning:PTuning",
    "prefix_tuning": "prefix_tuning:PrefixTuning",
}


def adapter_class(kind: str) -> type[GroupedAdapter[Any]]:
    """The class of a kind, imported when it is first asked for.

    Args:
        kind: a name that a recipe may give.

    Returns:
        The class.
    """
    if kind not in KINDS:
        raise UserError(f"model.adapter.kind: {kind!r} is not there yet; there are: {', '.join(KINDS)}")
    module, _, attribute = KINDS[kind].partition(":")
    found: type[GroupedAdapter[Any]] = getattr(importlib.import_module(f"fedloom.model.adapters.{module}"), attribute)
    return found


def adapter_layout(model: PreTrainedModel, config: AdapterKind) -> Layout:
    """What an adapter on a model consists of, a trained classification head among it.

    Args:
        model: the base (weights may be on the meta device).
        config: the recipe's adapter section.

    Returns:
        Its tensors' shapes, and the modules it changes.

    Raises:
        UserError: where the config does not fit the model.
    """
    kind = adapter_class(config.kind)
    layout = kind.layout(model, config)
    return Layout(layout.shapes | kind.shapes_of_head(model), layout.layers)


def build_adapter(model: PreTrainedModel, config: AdapterKind, classes: Classes | None = None) -> GroupedAdapter[Any]:
    """The adapters of a recipe on a model.

    Args:
        model: the frozen base; changed in place.
        config: the recipe's adapter section.
        classes: what examples are told apart by, where they are.

    Returns:
        Adapters, none loaded.

    Raises:
        UserError: where the base computes a class's logits in a way that is not supported.
    """
    # First: it compares with the base as it was loaded.
    reader = None if classes is None else ClassReader(model, classes)
    grouped = adapter_class(config.kind)(model, config)
    grouped.reader = reader
    read_last_layer_at_labels(model, grouped)
    return grouped
