"""Which layers of a model carry an adapter: the recipe's targets and numbers, resolved to names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.errors import UserError, nearest
from fedloom.model.classes import trained_head
from fedloom.recipe.adapter_schema import Ia3Config, OnLinearLayers

# By whether the kind is (IA)^3, and the recipe's key: PEFT's choice of layers for each architecture.
USUAL_NAMES: dict[tuple[bool, str], Mapping[str, Sequence[str]]] = {
    (False, "targets"): TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    (True, "targets"): TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    (True, "feedforward"): TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
}


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of all layers that can carry an adapter: linear ones other than those of the output head."""
    head, trained = model.get_output_embeddings(), trained_head(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not head
        and (trained is None or not f"{name}.".startswith(f"{trained}."))
    ]


def target_layers(model: PreTrainedModel, config: OnLinearLayers) -> list[str]:
    """Resolve the recipe's targets to layer names.

    Args:
        model: the base model (weights may be on the meta device).
        config: targets, and the decoder layers they are confined to.

    Returns:
        Full names, in the model's order.

    Raises:
        UserError: for a target that no linear layer matches, or a number that no decoder layer has.
    """
    layers, targets = linear_layers(model), usual_names(model, config.targets, type(config))
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    if targets != "all-linear":
        for target in targets:
            if not any(named(name, [target]) for name in layers):
                close = nearest(target, known)
                raise UserError(
                    f"model.adapter.targets: {target!r} matches no linear layer of the model; "
                    f"it has: {', '.join(known)}",
                    hint=f"did you mean {close!r}?" if close else None,
                )
        layers = [name for name in layers if named(name, targets)]
    return confined(layers, config.layers)


def usual_names(
    model: PreTrainedModel, names: list[str] | Literal["all-linear"], config: type[OnLinearLayers], key: str = "targets"
) -> list[str] | Literal["all-linear"]:
    """What a recipe that leaves a default stands for on models that call their layers otherwise than Llama's.

    Args:
        model: the base model.
        names: what the recipe says.
        config: the kind's.
        key: of the recipe.

    Returns:
        The names themselves; but where they are the default and the model has none of them, those that PEFT takes for
        its architecture, where it knows any.
    """
    if names == "all-linear" or names != config.model_fields[key].default:
        return names
    if any(named(layer, names) for layer in linear_layers(model)):
        return names
    usual = USUAL_NAMES[issubclass(config, Ia3Config), key].get(model.config.model_type)
    return names if usual is None else list(usual)


def confined(names: Sequence[str], numbers: Sequence[int] | None) -> list[str]:
    """Those of some modules that lie in decoder layers of given numbers.

    Args:
        names: full names of modules.
        numbers: of decoder layers; None: all, and whatever lies outside of them.

    Returns:
        Some of the names.

    Raises:
        UserError: for a number that none of them has.
    """
    if numbers is None:
        return list(names)
    there = sorted({number for name in names if (number := layer_number(name)) is not None})
    for wanted in numbers:
        if wanted not in there:
            raise UserError(
                f"model.adapter.layers: {wanted} is no decoder layer with a target; "
                f"there are {', '.join(map(str, there)) or 'none'}"
            )
    return [name for name in names if layer_number(name) in numbers]


def named(name: str, targets: Sequence[str]) -> bool:
    """Whether a layer is meant by one of several targets: its full name, or the end of it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def layer_number(name: str) -> int | None:
    """The number of the decoder layer a module belongs to.

    Args:
        name: its full name.

    Returns:
        Counted from 0 at the input; None outside of the decoder layers.
    """
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    assert isinstance(layer, (nn.Linear, Conv1D))
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return int(layer.weight.shape[0]), int(layer.weight.shape[1])


def short_names(model: PreTrainedModel, layers: Sequence[str]) -> list[str] | None:
    """The last parts of layers' names, where these mean exactly these layers: what other tools expect.

    Args:
        model: whose layers they are, possibly wrapped.
        layers: full names.

    Returns:
        Sorted short names, or None where they would match other modules, too.
    """
    short = sorted({name.rpartition(".")[2] for name in layers})
    matched = [
        name for name, _ in model.named_modules() if name.rpartition(".")[2] in short and not name.endswith(".base")
    ]
    return short if sorted(matched) == sorted(layers) else None
