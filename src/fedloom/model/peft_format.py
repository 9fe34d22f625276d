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
from fedloom.recipe.model_schema import ModelConfig
from fedloom.wire.validation import check_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(
    folder: Path, adapter: dict[str, Tensor], model: PreTrainedModel, lora: GroupedLora, config: ModelConfig
) -> None:
    """Write an adapter as a PEFT folder, whole or not at all.

    Args:
        folder: where it goes; an earlier one is replaced.
        adapter: fp32 tensors under PEFT's names, and changes of the base model as `GroupedLora.change_base` takes
            them: these become further rows and columns of A and B.
        model: the base with its wrapped layers.
        lora: the adapters' layout.
        config: the recipe's model section.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors = {name: value.contiguous() for name, value in _with_base_change(adapter, lora).items()}
    # Not save_file, which reports a full disk as a damaged file.
    (partial / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
    settings = _peft_settings(model, lora, config) | _rank_patterns(tensors, lora, config)
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


def _with_base_change(adapter: dict[str, Tensor], lora: GroupedLora) -> Adapter:
    found = lora.effective(adapter)
    for name in found:
        if f"base/{name}" in adapter:
            change = adapter[f"base/{name}"]
            # The change has no scale of its own, and A and B have LoRA's.
            further = change if ".lora_A." in name else change / lora.scale
            found[name] = torch.cat([found[name], further.to(found[name].dtype)], 0 if ".lora_A." in name else 1)
    return found


def _rank_patterns(tensors: Adapter, lora: GroupedLora, config: ModelConfig) -> dict[str, Any]:
    """What PEFT has to know of layers whose rank is not the recipe's; the scale is the same everywhere."""
    ranks = {layer: len(tensors[f"{PREFIX}{layer}.lora_A.weight"]) for layer in lora.layers}
    other = {layer: rank for layer, rank in ranks.items() if rank != config.adapter.largest_rank}
    return {"rank_pattern": other, "alpha_pattern": {layer: lora.scale * rank for layer, rank in other.items()}}


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
        fp32 tensors under PEFT's names; what exceeds the layout's rank is a change of the base model.

    Raises:
        UserError: where the file is missing or does not fit the model.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"{folder}: has no {WEIGHTS}")
    try:
        tensors = safetensors.torch.load_file(file)
        check_tensors(tensors, {name: _like(tensors.get(name), name, lora) for name in lora.shapes}, str(file))
    except (ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder}: {error}") from None
    assert all(name.startswith(PREFIX) for name in tensors)
    adapter: Adapter = {}
    for name, (rows, columns) in lora.shapes.items():
        value = tensors[name].float()
        adapter[name] = value[:rows, :columns]
        if value.shape != (rows, columns):
            further = value[rows:] if ".lora_A." in name else value[:, columns:] * lora.scale
            adapter[f"base/{name}"] = further
    return adapter


def _like(value: Tensor | None, name: str, lora: GroupedLora) -> Tensor:
    """The shape a tensor must have: the layout's, with any rank from the layout's up."""
    rows, columns = lora.shapes[name]
    if value is not None and value.dim() == 2:
        if ".lora_A." in name:
            rows = max(rows, value.shape[0])
        else:
            columns = max(columns, value.shape[1])
    return torch.empty(rows, columns, device="meta")
