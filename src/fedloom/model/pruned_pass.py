"""Passes over a base model of which clients leave out units, in two ways that come to the same.

*Masked*: the whole base is computed, and what an omitted head or neuron would add is multiplied by zero, each group of
the batch with a mask of its own. *Sliced*: the pass is one client's alone, over copies of the weights that lack the
omitted rows and columns. Sums over fewer numbers are rounded otherwise: the two agree to fp32 rounding, not to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.model.adapters.lora import GroupedLoraLayer
from fedloom.model.adapters.per_group import scaled
from fedloom.model.frozen_linear import Slice
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.units import Block, masks_of, slices_of

Made = TypeVar("Made")


class PrunedPass:
    """What passes leave out of the base: by masks or by slices.

    Args:
        masks: what the inputs of a linear layer are multiplied with, [groups, inputs] by the layer's name.
        slices: what is kept of a linear layer, by its name.
    """

    def __init__(self, masks: Mapping[str, Tensor], slices: Mapping[str, Slice]) -> None:
        self.masks = masks
        self.slices = slices
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """Weights that are copied once for all passes.

        Args:
            key: tells them from others.
            make: copies them.

        Returns:
            The copy.
        """
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def masked(self, name: str, rows: Tensor, starts: tuple[int, ...]) -> Tensor:
        """The inputs of a linear layer without what the omitted units would add.

        Args:
            name: of the layer.
            rows: [tokens, inputs].
            starts: groups + 1 positions among the tokens.

        Returns:
            [tokens, inputs]; the very same where there is no mask.
        """
        return scaled(rows, self.masks[name].to(rows.dtype), starts) if name in self.masks else rows

    def weights(self, name: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What is left of a linear layer.

        Args:
            name: of the layer.
            weight: [outputs, inputs].
            bias: [outputs], or None.

        Returns:
            Both, smaller; the very same where the layer is whole.
        """
        if name not in self.slices:
            return weight, bias

        def small() -> tuple[Tensor, Tensor | None]:
            rows, columns = self.slices[name]
            if columns is not None:
                return weight.index_select(1, columns), bias
            assert rows is not None
            return weight.index_select(0, rows), None if bias is None else bias.index_select(0, rows)

        return self.once(name, small)


def by_masks(blocks: Sequence[Block], kept: Tensor) -> PrunedPass:
    """A pass of several groups, each with a mask of its own.

    Args:
        blocks: of the model.
        kept: [groups, units] on the model's device, 1 where a group keeps a unit, else 0.

    Returns:
        The pass.
    """
    return PrunedPass(masks_of(blocks, kept), {})


def by_slices(blocks: Sequence[Block], kept: Tensor) -> PrunedPass:
    """A pass of a single group over smaller weights.

    Args:
        blocks: of the model.
        kept: bool [units] on the model's device.

    Returns:
        The pass.
    """
    return PrunedPass({}, slices_of(blocks, kept))


@contextmanager
def leaving_out(grouped: GroupedAdapter[Any], pruned: PrunedPass | None) -> Iterator[None]:
    """Work in this thread over a base without some of its units.

    Args:
        grouped: the adapters.
        pruned: what is left out; None: nothing.
    """
    grouped.pruned = pruned
    try:
        yield
    finally:
        grouped.pruned = None


def make_prunable(model: PreTrainedModel, grouped: GroupedAdapter[Any], blocks: Sequence[Block]) -> None:
    """Let linear layers heed `grouped.pruned`; our own decoder layers, which call none of them, heed it themselves.

    Args:
        model: the base with its wrapped layers.
        grouped: the adapters.
        blocks: of the model.
    """
    for block in blocks:
        model.get_submodule(block.outgoing).register_forward_pre_hook(_mask_inputs(block.outgoing, grouped))
        for name in (*block.incoming, block.outgoing):
            layer = model.get_submodule(name)
            if not isinstance(layer, GroupedLoraLayer):
                layer.forward = _sliced_forward(name, layer, grouped)


def _mask_inputs(name: str, grouped: GroupedAdapter[Any]) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor] | None]:
    def hook(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
        if grouped.pruned is None:
            return None
        rows = arguments[0]
        flat = grouped.pruned.masked(name, rows.reshape(-1, rows.shape[-1]), grouped.group_starts)
        return (flat.view_as(rows),)

    return hook


def _sliced_forward(name: str, layer: nn.Module, grouped: GroupedAdapter[Any]) -> Callable[[Tensor], Tensor]:
    whole = layer.forward

    def forward(x: Tensor) -> Tensor:
        if grouped.pruned is None:
            output: Tensor = whole(x)
            return output
        assert isinstance(layer, nn.Linear)
        return nn.functional.linear(x, *grouped.pruned.weights(name, layer.weight, layer.bias))

    return forward
