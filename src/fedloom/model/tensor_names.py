"""Which tensors of an adapter are meant: by LoRA factor, or by patterns of a recipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from fedloom.aggregation.base import Factors
from fedloom.errors import UserError
from fedloom.model.adapters.targets import layer_number
from fedloom.recipe.layers_schema import LayersConfig


def factor_names(names: Collection[str], factors: Factors) -> set[str]:
    """The names of all LoRA factors or of one of them, and of all tensors that are none.

    Args:
        names: of an adapter.
        factors: which.

    Returns:
        Some of the names.
    """
    others = [] if factors == "both" else [f".lora_{other}." for other in "ABR" if other != factors]
    return {name for name in names if not any(other in name for other in others)}


def private_names(names: Collection[str], shared: Factors, patterns: Sequence[str]) -> set[str]:
    """The names of the tensors that stay with their client.

    Args:
        names: of an adapter.
        shared: the factors that the algorithm shares.
        patterns: of the recipe, with * for any text; a pattern may name a part between dots.

    Returns:
        Some of the names.
    """
    return (set(names) - factor_names(names, shared)) | {
        name for name in names if any(_matches(name, pattern) for pattern in patterns)
    }


def check_patterns(names: Collection[str], shared: Factors, patterns: Sequence[str]) -> None:
    """Check that every pattern has an effect, and that something is left to share.

    Args:
        names: of an adapter.
        shared: the factors that the algorithm shares.
        patterns: of the recipe.

    Raises:
        UserError: otherwise.
    """
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise UserError(
                f"federation.private: {pattern!r} matches no tensor of the adapter; they are called like "
                f"{next(iter(names))!r}"
            )
    if patterns and len(private_names(names, shared, patterns)) == len(names):
        raise UserError("federation.private: names the whole adapter, so clients would share nothing")


def layer_of(name: str) -> int | None:
    """The number of the decoder or encoder layer that an adapter's tensor belongs to.

    Args:
        name: of the tensor, as PEFT calls it.

    Returns:
        Counted from 0 at the input; None where it belongs to none, as a trained head's tensors do.
    """
    return layer_number(name)


def adapted_layers(names: Collection[str]) -> list[int]:
    """The numbers of the layers that an adapter has tensors in, ascending."""
    return sorted({number for name in names if (number := layer_of(name)) is not None})


def names_in_layers(names: Collection[str], layers: Collection[int]) -> set[str]:
    """The names of the tensors that belong to some layers.

    Args:
        names: of an adapter.
        layers: their numbers.

    Returns:
        Some of the names.
    """
    return {name for name in names if layer_of(name) in layers}


def check_layer_numbers(names: Collection[str], config: LayersConfig) -> None:
    """Check that there are as many layers as the recipe chooses, before any weight is read.

    Args:
        names: of an adapter.
        config: the recipe's section federation.layers.

    Raises:
        UserError: otherwise.
    """
    layers = len(adapted_layers(names))
    if not layers:
        raise UserError("federation.layers has no effect: no tensor of the adapter belongs to a layer")
    if config.number is not None and config.number > layers:
        raise UserError(f"federation.layers.number: {config.number}, but the adapter has tensors in {layers} layers")


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")
