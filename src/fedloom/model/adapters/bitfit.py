"""BitFit (arXiv 2106.10199): only biases are trained, here a new one on each target layer, which starts at zero."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.errors import UserError
from fedloom.model.adapter_products import adapter_dtype
from fedloom.model.adapters.lora import factor_shapes
from fedloom.model.adapters.per_group import change_output, shifted
from fedloom.model.adapters.targets import short_names, sizes, target_layers
from fedloom.model.grouped_adapter import PREFIX, Adapter, Layout, Shapes
from fedloom.model.peft_format import PeftFormat
from fedloom.recipe.adapter_schema import BitFitConfig


class BitFit(PeftFormat[BitFitConfig]):
    """Trained biases on one model: hooks on its target layers.

    PEFT has no kind of its own for them, but a bias on LoRA's B: that of a LoRA of rank 1 whose factors are zero.
    """

    def __init__(self, model: PreTrainedModel, config: BitFitConfig) -> None:
        super().__init__(model, config)
        self._factors = factor_shapes(model, self.layers, 1)
        for layer in self.layers:
            module = model.get_submodule(layer)
            self.fan_in_fan_out = isinstance(module, Conv1D)
            change_output(module, partial(self._shifted, layer))

    @classmethod
    def layout(cls, model: PreTrainedModel, config: BitFitConfig) -> Layout:
        """See `GroupedAdapter`: [outputs] of each target."""
        layers = target_layers(model, config)
        return Layout({_name(layer): (sizes(model.get_submodule(layer))[1],) for layer in layers}, layers)

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: zeros."""
        return {name: torch.zeros(shape) for name, shape in self.own_shapes.items()}

    def exported(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """See `PeftFormat`."""
        tensors = {name: torch.zeros(shape) for name, shape in self._factors.items()}
        return tensors | {_peft_name(layer): adapter[_name(layer)] for layer in self.layers}

    def stored_shapes(self, tensors: Mapping[str, Tensor]) -> Shapes:
        """See `PeftFormat`."""
        return self._factors | {_peft_name(layer): self.shapes[_name(layer)] for layer in self.layers}

    def imported(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """See `PeftFormat`."""
        for layer in self.layers:
            if bool(tensors[f"{PREFIX}{layer}.lora_B.weight"].any()):
                raise UserError(f"the adapter's LoRA factors on {layer} are not zero, so it is more than biases")
        return {_name(layer): tensors[_peft_name(layer)] for layer in self.layers}

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`; the scale is 1, so that B's bias is what is added."""
        return peft.LoraConfig(
            r=1,
            lora_alpha=1,
            lora_dropout=0.0,
            lora_bias=True,
            fan_in_fan_out=self.fan_in_fan_out,
            target_modules=short_names(model, self.layers) or self.layers,
        )

    def _shifted(self, layer: str, rows: Tensor) -> Tensor:
        dtype = adapter_dtype(rows.device, rows.dtype)
        return shifted(rows.to(dtype), self.parameters[_name(layer)].to(dtype), self.group_starts)


def _name(layer: str) -> str:
    return f"{PREFIX}{layer}.bias"


def _peft_name(layer: str) -> str:
    return f"{PREFIX}{layer}.lora_B.bias"
