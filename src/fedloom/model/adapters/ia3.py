"""(IA)^3 (arXiv 2205.05638): a learnt factor for each output of chosen layers, or for each input of others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedloom.errors import UserError, nearest
from fedloom.model.adapter_products import adapter_dtype
from fedloom.model.adapters.per_group import change_input, change_output, scaled
from fedloom.model.adapters.targets import named, short_names, sizes, target_layers, usual_names
from fedloom.model.grouped_adapter import PREFIX, Adapter, Layout, Shapes
from fedloom.model.peft_format import PeftFormat
from fedloom.recipe.adapter_schema import Ia3Config


class Ia3(PeftFormat[Ia3Config]):
    """(IA)^3 on one model: hooks on its target layers."""

    def __init__(self, model: PreTrainedModel, config: Ia3Config) -> None:
        super().__init__(model, config)
        self._feedforward = feedforward_names(model, config)
        for layer in self.layers:
            module = model.get_submodule(layer)
            self.fan_in_fan_out = isinstance(module, Conv1D)
            if named(layer, self._feedforward):
                change_input(module, partial(self._scaled, layer))
            else:
                change_output(module, partial(self._scaled, layer))

    @classmethod
    def layout(cls, model: PreTrainedModel, config: Ia3Config) -> Layout:
        """See `GroupedAdapter`: under PEFT's names, [outputs, 1] of each target or [1, inputs]."""
        layers = target_layers(model, config)
        feedforward = feedforward_names(model, config)
        shapes: Shapes = {}
        for layer in layers:
            inputs, outputs = sizes(model.get_submodule(layer))
            shapes[_name(layer)] = (1, inputs) if named(layer, feedforward) else (outputs, 1)
        for target in feedforward:
            if not any(named(layer, [target]) for layer in layers):
                close = nearest(target, [layer.rpartition(".")[2] for layer in layers])
                raise UserError(
                    f"model.adapter.feedforward: {target!r} matches none of the layers that targets and layers name",
                    hint=f"did you mean {close!r}?" if close else None,
                )
        return Layout(shapes, layers)

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: ones."""
        return {name: torch.ones(shape) for name, shape in self.own_shapes.items()}

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`."""
        feedforward = [layer for layer in self.layers if named(layer, self._feedforward)]
        targets, short = short_names(model, self.layers), short_names(model, feedforward)
        # PEFT wants the one list to be a part of the other.
        both_short = targets is not None and short is not None
        return peft.IA3Config(
            target_modules=targets if both_short else self.layers,
            feedforward_modules=short if both_short else feedforward,
            fan_in_fan_out=self.fan_in_fan_out,
        )

    def _scaled(self, layer: str, rows: Tensor) -> Tensor:
        dtype = adapter_dtype(rows.device, rows.dtype)
        return scaled(rows.to(dtype), self.parameters[_name(layer)].flatten(1).to(dtype), self.group_starts)


def feedforward_names(model: PreTrainedModel, config: Ia3Config) -> list[str]:
    """The names of the targets whose inputs are scaled, as `usual_names` has them."""
    found = usual_names(model, config.feedforward, Ia3Config, "feedforward")
    assert isinstance(found, list)
    return found


def _name(layer: str) -> str:
    return f"{PREFIX}{layer}.ia3_l"
