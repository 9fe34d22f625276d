"""Adapters as PEFT folders: what is written here loads in PEFT, TRL and vLLM, and what they write loads here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.adapter_folder import read_tensors
from fedloom.model.base import resolve_base
from fedloom.model.classes import trained_head
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter, KindConfig, Shapes
from fedloom.recipe.model_schema import ModelConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class PeftFormat(GroupedAdapter[KindConfig]):
    """A kind of adapter that PEFT has as well."""

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """What PEFT has to know of an adapter.

        Args:
            model: the base, as this kind has changed it.
            tensors: as `exported`.

        Returns:
            Its config, but for the base's name and the task.
        """
        raise NotImplementedError

    def exported(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """An adapter as PEFT stores it.

        Args:
            adapter: fp32 tensors, and what an algorithm sends beside them.

        Returns:
            Tensors under PEFT's names.
        """
        return {name: adapter[name] for name in self.own_shapes}

    def stored_shapes(self, tensors: Mapping[str, Tensor]) -> Shapes:
        """The shapes that PEFT's tensors must have.

        Args:
            tensors: as found, unchecked.

        Returns:
            Shapes by PEFT's names.
        """
        return self.own_shapes

    def imported(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """The way back from `exported`.

        Args:
            tensors: fp32, of `stored_shapes`.

        Returns:
            The adapter.
        """
        return dict(tensors)

    def write(self, folder: Path, adapter: Mapping[str, Tensor], model: PreTrainedModel, config: ModelConfig) -> None:
        """See `GroupedAdapter`: a PEFT folder."""
        trained = self.exported(adapter) | {name: adapter[name] for name in self.head_shapes}
        tensors = {name: value.contiguous() for name, value in trained.items()}
        # Not save_file, which reports a full disk as a damaged file.
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
        head = trained_head(model)
        settings = self.peft_config(model, tensors).to_dict() | {
            "task_type": _task_type(model),
            "modules_to_save": None if head is None else [head],
            "base_model_name_or_path": resolve_base(config.base),
            "inference_mode": True,
        }
        # Sets have no order of their own; the same adapter must always make the same file.
        settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
        (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def read(self, folder: Path) -> Adapter:
        """See `GroupedAdapter`."""
        tensors = read_tensors(folder, WEIGHTS, lambda found: self.stored_shapes(found) | self.head_shapes)
        head = {name: tensors.pop(name) for name in self.head_shapes}
        return self.imported(tensors) | head

    @staticmethod
    def opened(base: PreTrainedModel, folder: Path) -> Any:
        """See `GroupedAdapter`: as PEFT loads it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # Of BitFit's biases, that they can't be merged into layers without one; nobody merges them here.
            warnings.filterwarnings("ignore", "`lora_bias=True` was passed")
            # PEFT only warns of missing tensors, and would answer without them.
            warnings.filterwarnings("error", "Found missing adapter keys")
            return peft.PeftModel.from_pretrained(base, str(folder))


def _task_type(model: PreTrainedModel) -> str:
    """PEFT's word for what a model gives out; for masked words it has none, and takes the model as it is."""
    if trained_head(model) is not None:
        return "SEQ_CLS"
    return "FEATURE_EXTRACTION" if type(model).__name__.endswith("ForMaskedLM") else "CAUSAL_LM"
