"""The folder that a run leaves its adapter in, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter, Shapes
from fedloom.recipe.model_schema import ModelConfig
from fedloom.wire.validation import check_tensors


def export_adapter(
    folder: Path,
    adapter: Mapping[str, Tensor],
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    config: ModelConfig,
) -> None:
    """Write an adapter in its kind's format.

    Args:
        folder: where it goes; an earlier one is replaced.
        adapter: fp32 tensors, and what an algorithm sends beside them.
        model: the base, as its kind of adapter has changed it.
        grouped: the kind.
        config: the recipe's model section.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    grouped.write(partial, adapter, model, config)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def read_tensors(folder: Path, name: str, shapes_of: Callable[[Mapping[str, Tensor]], Shapes]) -> Adapter:
    """Read a file of an adapter's folder, and check it.

    Args:
        folder: the adapter's.
        name: of the file.
        shapes_of: the shapes that tensors must have, given those found.

    Returns:
        fp32 tensors.

    Raises:
        UserError: where the file is missing, or names, shapes or formats are others.
    """
    file = folder / name
    if not file.is_file():
        raise UserError(f"{folder}: has no {name}")
    try:
        tensors = safetensors.torch.load_file(file)
        expected = {key: torch.empty(shape, device="meta") for key, shape in shapes_of(tensors).items()}
        check_tensors(tensors, expected, str(file))
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder}: {error}") from None
    return {key: tensors[key].float() for key in expected}
