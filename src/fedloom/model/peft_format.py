"""Adapters as PEFT folders: what is written here loads in PEFT, TRL and vLLM, and what they write loads here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.errors import UserError
from fedloom.model.base import resolve_base
from fedloom.model.grouped_lora import PREFIX, Adapter, GroupedLora, GroupedLoraLayer
from fedloom.recipe.schema import ModelConfig
from fedloom.wire.validation import check_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(
    folder: Path, adapter: dict[str, Tensor], model: PreTrainedModel, lora: GroupedLora, config: ModelConfig
) -> None:
    """Write an adapter as a PEFT folder, whole or not at all.

    Args:
        folder: where it goes; an earlier one is replaced.
        adapter: fp32 tensors under PEFT's names.
        model: the base with its wrapped layers.
        lora: the adapters' layout.
        config: the recipe's model section.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors = {name: value.contiguous() for name, value in adapter.items()}
    # Not save_file, which reports a full disk as a damaged file.
    (partial / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
    settings = _peft_settings(model, lora, config)
    (partial / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _peft_settings(model: PreTrainedModel, lora: GroupedLora, config: ModelConfig) -> dict[str, Any]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, GroupedLoraLayer)}
    settings = peft.LoraConfig(
        r=config.adapter.largest_rank,
        lora_alpha=config.adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=resolve_base(config.base),
        inference_mode=True,
        fan_in_fan_out=any(isinstance(layer.base, Conv1D) for layer in layers.values()),
        target_modules=_target_modules(model, list(layers)),
    ).to_dict()
    # Sets have no order of their own; the same adapter must always make the same file.
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}


def _target_modules(model: PreTrainedModel, layers: list[str]) -> list[str]:
    short = sorted({name.rpartition(".")[2] for name in layers})
    matched = [
        name for name, _ in model.named_modules() if name.rpartition(".")[2] in short and not name.endswith(".base")
    ]
    # Short names are what other tools expect, but only where they mean exactly these layers.
    return short if sorted(matched) == sorted(layers) else layers


def import_adapter(folder: Path, lora: GroupedLora) -> Adapter:
    """Read a PEFT folder's LoRA adapter.

    Args:
        folder: holds adapter_model.safetensors.
        lora: the layout it must fit.

    Returns:
        fp32 tensors under PEFT's names.

    Raises:
        UserError: where the file is missing or does not fit the model.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"{folder}: has no {WEIGHTS}")
    try:
        tensors = safetensors.torch.load_file(file)
        reference = {name: torch.empty(shape, device="meta") for name, shape in lora.shapes.items()}
        check_tensors(tensors, reference, str(file))
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder}: {error}") from None
    assert all(name.startswith(PREFIX) for name in tensors)
    return {name: tensors[name].float() for name in lora.shapes}
