"""The base as transformers computes it, with one adapter at a time: what texts are generated with.

The base that is trained and scored with takes packed batches and keeps no keys and values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraModel
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.base import read_weights
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.recipe import Recipe


class PlainModel:
    """A plain model that is loaded when it is first asked for, and again for another adapter.

    Args:
        recipe: of the run.
        model: its base, as the adapter's kind has changed it.
        grouped: its grouped adapters.
    """

    def __init__(self, recipe: Recipe, model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> None:
        self._recipe, self._model, self._grouped = recipe, model, grouped
        self._adapter: Mapping[str, Tensor] | None = None
        self._loaded: Any = None

    def with_adapter(self, adapter: Mapping[str, Tensor] | None) -> Any:
        """The base with an adapter.

        Args:
            adapter: fp32 tensors, and what an algorithm sends beside them; None: the base as it is.

        Returns:
            A model of transformers or PEFT in evaluation mode.
        """
        if self._loaded is None or self._adapter is not adapter:
            # The one before goes first: there is not always memory for both.
            self._loaded, self._adapter = None, adapter
            self._loaded = self._opened(adapter)
        return self._loaded

    def _opened(self, adapter: Mapping[str, Tensor] | None) -> Any:
        base = read_weights(self._recipe.model, self._grouped.device)
        if self._recipe.model.quantization is None:
            base.to(self._grouped.device)
        if adapter is None:
            return base.eval()
        with tempfile.TemporaryDirectory() as folder:
            # As a run exports it, so that an answer is what others get who open the adapter.
            self._grouped.write(Path(folder), adapter, self._model, self._recipe.model)
            opened = self._grouped.opened(base, Path(folder))
        exact = base.dtype == torch.float32 and self._recipe.model.quantization is None
        if exact and isinstance(opened, peft.PeftModel) and isinstance(opened.base_model, LoraModel):
            # Merged, LoRA costs nothing. Into a bf16 weight, small changes would be rounded away.
            opened = opened.merge_and_unload()
        return opened.eval()
