"""Activation checkpointing (arXiv 1604.06174): a layer keeps its input only and is computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from fedloom.model.grouped_adapter import GroupedAdapter


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers of a model, whatever it calls them.

    Args:
        model: a transformers model (weights may be on the meta device).

    Returns:
        The layers, from the input on; none where the model is built in another way.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(stacks, []))


def make_layers_repeatable(model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> None:
    """Let every decoder layer heed `grouped.recompute`: keep its input only, compute the rest again on the way back.

    The same operations on the same numbers, so the same gradients to the last bit.

    Args:
        model: the base with its wrapped layers.
        grouped: the adapters.
    """
    for layer in decoder_layers(model):
        layer.forward = _repeatable(layer.forward, grouped)


def _repeatable(forward: Callable[..., Any], grouped: GroupedAdapter[Any]) -> Callable[..., Any]:
    def maybe_repeated(hidden_states: Tensor, *arguments: Any, **others: Any) -> Any:
        if not grouped.recompute or not torch.is_grad_enabled():
            return forward(hidden_states, *arguments, **others)
        loaded = grouped.loaded()

        def again(values: Tensor) -> Any:
            # On accelerators the way back runs in another thread, in which no adapters are loaded.
            with grouped.borrowed(loaded):
                return forward(values, *arguments, **others)

        return checkpoint(again, hidden_states, use_reentrant=False, preserve_rng_state=False)

    return maybe_repeated
