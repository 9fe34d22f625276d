"""Full fine-tuning: every parameter of the base is trained, in fp32, one client after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.base import load_tokenizer
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter, Layout
from fedloom.recipe.adapter_schema import FullConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.wire.validation import check_tensors


class FullModel(GroupedAdapter[FullConfig]):
    """All parameters of a model: while a client trains they are views of its one row.

    Tied weights, such as an output head that is the embedding, are one tensor under the first of their names.
    """

    cohorts = False
    trains_head = True
    head_prefix = ""

    def __init__(self, model: PreTrainedModel, config: FullConfig) -> None:
        super().__init__(model, config)
        self._class = type(model)
        self._places = dict(model.named_parameters())
        # Not copies: what is loaded takes the place of these tensors, and leaves them as they are.
        self._base = {name: parameter.data for name, parameter in self._places.items()}

    @classmethod
    def layout(cls, model: PreTrainedModel, config: FullConfig) -> Layout:
        """See `GroupedAdapter`: the model's own names."""
        return Layout({name: tuple(parameter.shape) for name, parameter in model.named_parameters()}, [])

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: the base."""
        return {
            name: value.to("cpu", torch.float32, copy=True)
            for name, value in self._base.items()
            if name in self.own_shapes
        }

    def load(self, adapters: Sequence[Mapping[str, Tensor]], trainable: bool = True) -> None:
        """See `GroupedAdapter`; of one client only, and seen by all threads."""
        assert len(adapters) == 1
        super().load(adapters, trainable)
        loaded = self._loaded
        for name, view in self.split(loaded.values).items():
            parameter = self._places[name]
            parameter.data = view[0]
            loaded.parameters[name] = parameter.requires_grad_(trainable)
            if trainable:
                loaded.gradient_views[name] = loaded.gradient_views[name][0]

    def write(self, folder: Path, adapter: Mapping[str, Tensor], model: PreTrainedModel, config: ModelConfig) -> None:
        """See `GroupedAdapter`: a model folder with its tokenizer."""
        self.load([adapter], trainable=False)
        model.save_pretrained(folder)
        load_tokenizer(config).save_pretrained(folder)

    def read(self, folder: Path) -> Adapter:
        """See `GroupedAdapter`."""
        tensors = {name: parameter.detach() for name, parameter in _open(folder, self._class).named_parameters()}
        try:
            check_tensors(tensors, self._base, str(folder))
        except ValueError as error:
            raise UserError(str(error)) from None
        return tensors

    @staticmethod
    def opened(base: PreTrainedModel, folder: Path) -> Any:
        """See `GroupedAdapter`."""
        return _open(folder, type(base)).to(base.device)


def _open(folder: Path, kind: Any) -> Any:
    try:
        return kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    except Exception as error:  # transformers, its parsers and safetensors share no class of errors
        raise UserError(f"{folder}: not a readable model: {(str(error).splitlines() or [''])[0]}") from None
