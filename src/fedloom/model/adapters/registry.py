"""Kinds of adapters by name."""

from __future__ import annotations

import importlib
from typing import Any

from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.grouped_adapter import GroupedAdapter
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


def build_adapter(model: PreTrainedModel, config: AdapterKind) -> GroupedAdapter[Any]:
    """The adapters of a recipe on a model.

    Args:
        model: the frozen base; changed in place.
        config: the recipe's adapter section.

    Returns:
        Adapters, none loaded.
    """
    return adapter_class(config.kind)(model, config)
