"""Sparse changes of weights: a drawn share of each target's entries (stage 1 of SLoRA, arXiv 2308.06522).

y = W x + dW x, dW zero but at k positions, which follow from the recipe alone: only values are trained and sent. A LoRA
that starts from such a folder starts from the best approximation of dW by its rank (`start.py`), SLoRA's stage 2.
PEFT has no such kind: a run leaves `sparse.safetensors` and `sparse.json`, which `load_sparse` puts on a plain
transformers model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.model.adapter_products import adapter_dtype
from fedloom.model.adapters.per_group import sparse_product
from fedloom.model.adapters.targets import sizes, target_layers
from fedloom.model.base import resolve_base
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter, Layout, Shapes
from fedloom.randomness import numpy_generator
from fedloom.recipe.adapter_schema import SparseConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.wire.validation import check_tensors

CONFIG, WEIGHTS = "sparse.json", "sparse.safetensors"
# What the two tensors of a layer are called in the file.
VALUES, POSITIONS = ".sparse.values", ".sparse.positions"


class GroupedSparse(GroupedAdapter[SparseConfig]):
    """Sparse changes of one model's weights: hooks on its target layers."""

    head_prefix = ""

    def __init__(self, model: PreTrainedModel, config: SparseConfig) -> None:
        super().__init__(model, config)
        self.positions: dict[str, Tensor] = {}
        for layer in self.layers:
            module = model.get_submodule(layer)
            inputs, outputs = sizes(module)
            self.positions[layer] = drawn_positions(layer, outputs * inputs, config).to(self.device)
            module.register_forward_hook(partial(self._added, layer, (outputs, inputs)))

    @classmethod
    def layout(cls, model: PreTrainedModel, config: SparseConfig) -> Layout:
        """See `GroupedAdapter`: the values [entries] of each target."""
        layers = target_layers(model, config)
        entries = [trained_entries(sizes(model.get_submodule(layer)), config.share) for layer in layers]
        return Layout({layer + VALUES: (count,) for layer, count in zip(layers, entries, strict=True)}, layers)

    def own_initial(self, seed: int) -> Adapter:
        """See `GroupedAdapter`: zeros."""
        return {name: torch.zeros(shape) for name, shape in self.own_shapes.items()}

    def write(self, folder: Path, adapter: Mapping[str, Tensor], model: PreTrainedModel, config: ModelConfig) -> None:
        """See `GroupedAdapter`: a format of Fedloom's own, which tells the positions, too."""
        tensors = {name: adapter[name].contiguous() for name in self.shapes}
        tensors |= {layer + POSITIONS: positions.cpu() for layer, positions in self.positions.items()}
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
        # Where it started from is no part of what it is.
        settings = self.config.model_dump(mode="json", exclude={"start"})
        settings |= {"base": resolve_base(config.base), "on": self.layers}
        (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def read(self, folder: Path) -> Adapter:
        """See `GroupedAdapter`."""
        adapter, positions = read_sparse(folder)
        check_shapes(adapter, self.shapes, folder)
        for layer, drawn in self.positions.items():
            if not torch.equal(positions[layer], drawn.cpu()):
                raise UserError(f"{folder}: the values of {layer} are at other positions than the recipe draws")
        return adapter

    @staticmethod
    def opened(base: PreTrainedModel, folder: Path) -> Any:
        """See `GroupedAdapter`."""
        return load_sparse(base, folder)

    def _added(
        self, layer: str, shape: tuple[int, int], module: nn.Module, given: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        rows = given[0].reshape(-1, shape[1])
        dtype = adapter_dtype(rows.device, rows.dtype)
        values = self.parameters[layer + VALUES].to(dtype)
        added = sparse_product(rows.to(dtype), values, self.positions[layer], shape, self.group_starts)
        return (output.to(dtype) + added.view(output.shape)).to(output.dtype)


class SparseChange(nn.Module):
    """What is added to one weight of a plain model.

    Args:
        shape: outputs and inputs of the weight.
        positions: int64 [entries], in the weight row by row.
    """

    positions: Tensor

    def __init__(self, shape: tuple[int, int], positions: Tensor) -> None:
        super().__init__()
        self._shape = shape
        self.values = nn.Parameter(torch.zeros(len(positions)))
        self.register_buffer("positions", positions)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [..., inputs] times the change, fp32 [..., outputs]."""
        return nn.functional.linear(rows.float(), dense(self.values, self.positions, self._shape))


def load_sparse(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put the sparse changes that a run has left on a plain transformers model.

    Args:
        model: the base that they were trained on; changed in place.
        folder: the run's `adapter` folder.

    Returns:
        The model, with the changes in fp32 beside its weights.

    Raises:
        UserError: where the folder holds none, or they do not fit the model.
    """
    adapter, positions = read_sparse(Path(folder))
    head = {name: value for name, value in adapter.items() if not name.endswith(VALUES)}
    check_shapes(head, GroupedSparse.shapes_of_head(model), Path(folder))
    modules = dict(model.named_modules())
    for layer, places in positions.items():
        module = modules.get(layer)
        if module is None:
            raise UserError(f"{folder}: made for a model with a layer {layer!r}, which this one has not")
        inputs, outputs = sizes(module)
        if int(places[-1]) >= inputs * outputs:
            raise UserError(f"{folder}: made for a larger {layer} than the model's")
        # A child of its layer: the values have the name that they are stored under, and the model's `to` moves them.
        module.add_module("sparse", SparseChange((outputs, inputs), places).to(model.device))
        module.register_forward_hook(_plus_sparse)
    model.load_state_dict(adapter, strict=False)
    return model


def read_sparse(folder: Path) -> tuple[Adapter, dict[str, Tensor]]:
    """Read what a run of this kind has left.

    Args:
        folder: its `adapter` folder.

    Returns:
        The adapter, fp32, a classification head among it where one was trained, and of each layer the positions,
        int64 [entries], ascending.

    Raises:
        UserError: where the file is missing, or is none of this kind.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise UserError(f"{folder}: has no {WEIGHTS}")
    try:
        tensors = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise UserError(f"{folder}: {error}") from None
    positions = {
        name.removesuffix(POSITIONS): value
        for name, value in tensors.items()
        if name.endswith(POSITIONS) and value.dtype == torch.int64
    }
    adapter = {name: value for name, value in tensors.items() if name.removesuffix(POSITIONS) not in positions}
    valued = {name for name in adapter if name.endswith(VALUES)}
    if valued != {layer + VALUES for layer in positions} or not all(map(torch.is_floating_point, adapter.values())):
        raise UserError(f"{folder}: {WEIGHTS} does not hold values and int64 positions of each of some layers")
    for layer, places in positions.items():
        ascending = len(places) > 0 and int(places[0]) >= 0 and bool((places.diff() > 0).all())
        if not ascending or adapter[layer + VALUES].shape != places.shape:
            raise UserError(f"{folder}: the positions of {layer} are not ascending, one for each value")
    return {name: value.float() for name, value in adapter.items()}, positions


def check_shapes(tensors: Mapping[str, Tensor], shapes: Shapes, folder: Path) -> None:
    """Check names, shapes and numbers of what was read.

    Args:
        tensors: as read.
        shapes: what they must be.
        folder: where they were, for the message.

    Raises:
        UserError: where they are others.
    """
    try:
        check_tensors(tensors, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, str(folder))
    except ValueError as error:
        raise UserError(str(error)) from None


def drawn_positions(layer: str, size: int, config: SparseConfig) -> Tensor:
    """The entries of a weight that are trained: independent of data, the same for everybody who has the recipe.

    So many of all, without replacement, with the recipe's `mask_seed` and the layer's name as address.

    Args:
        layer: its full name.
        size: entries of the weight.
        config: the recipe's adapter section.

    Returns:
        int64 [entries], ascending, in the weight [outputs, inputs] row by row.
    """
    generator = numpy_generator(config.mask_seed, f"sparse mask {layer}")
    count = trained_entries((size, 1), config.share)
    return torch.from_numpy(np.sort(generator.choice(size, count, replace=False, shuffle=False)))


def trained_entries(shape: tuple[int, int], share: float) -> int:
    """How many entries of a weight are trained, one at least.

    Args:
        shape: of the weight, either way round.
        share: of its entries.

    Returns:
        The number.
    """
    return max(1, round(share * shape[0] * shape[1]))


def dense(values: Tensor, positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse change as a matrix.

    Args:
        values: [entries].
        positions: int64 [entries].
        shape: outputs and inputs.

    Returns:
        [outputs, inputs], of the dtype of values.
    """
    return values.new_zeros(shape[0] * shape[1]).index_put((positions,), values).view(shape)


def _plus_sparse(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    change = module.get_submodule("sparse")
    added: Tensor = change(given[0])
    return (output + added).to(output.dtype)
