"""The units of a base model that a client may leave out: groups of attention heads, and feed-forward neurons.

Heads that share keys and values (arXiv 2305.13245) are one unit, as none of them can go without the others' or its own
keys. All units of a model are numbered through, block after block; which of them are kept is bool [units].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation.kept_units import Tie
from fedloom.errors import UserError
from fedloom.model import decoder_layer, encoder_layer
from fedloom.model.frozen_linear import Slice
from fedloom.model.grouped_adapter import PREFIX, Shapes

# A share that is a whole number of units but for rounding of the rate.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Block:
    """The units of one layer's attention, or of its feed-forward part.

    Args:
        first: number of its first unit.
        count: how many.
        incoming: the linear layers whose outputs belong to units, by full name: how many rows each unit has.
        outgoing: the one that reads them, by full name.
        columns: how many of its inputs each unit has.
    """

    first: int
    count: int
    incoming: Mapping[str, int]
    outgoing: str
    columns: int

    def of(self, values: Tensor) -> Tensor:
        """The block's own part of values for all units, [..., units]."""
        return values[..., self.first : self.first + self.count]


def find_blocks(model: PreTrainedModel) -> list[Block]:
    """The units of a base model.

    Args:
        model: the base (weights may be on the meta device), possibly wrapped.

    Returns:
        Two blocks a layer: heads, then neurons.

    Raises:
        UserError: for a model whose layers are built in another way than those known here.
    """
    blocks: list[Block] = []
    for name, module in model.named_modules():
        for describe in _describe(name, module):
            first = blocks[-1].first + blocks[-1].count if blocks else 0
            blocks.append(Block(first, *describe))
    if not blocks:
        known = ", ".join(sorted(decoder_layer.FAMILY | encoder_layer.FAMILY))
        raise UserError(
            f"local.pruning: which heads and neurons a {type(model).__name__} has is not known here; known are layers "
            f"of the classes {known}"
        )
    return blocks


def _describe(name: str, module: Any) -> list[tuple[int, dict[str, int], str, int]]:
    if type(module).__name__ in decoder_layer.FAMILY:
        attention, config = module.self_attn, module.self_attn.config
        heads, size = config.num_key_value_heads, attention.head_dim
        together = config.num_attention_heads // heads * size
        parts = {"q_proj": together, "k_proj": size, "v_proj": size}
        inputs = {f"{name}.self_attn.{part}": rows for part, rows in parts.items()}
        neurons = module.mlp.intermediate_size
        return [
            (heads, inputs, f"{name}.self_attn.o_proj", together),
            (neurons, {f"{name}.mlp.gate_proj": 1, f"{name}.mlp.up_proj": 1}, f"{name}.mlp.down_proj", 1),
        ]
    if type(module).__name__ in encoder_layer.FAMILY:
        attention = module.attention.self
        heads, size = attention.num_attention_heads, attention.attention_head_size
        inputs = {f"{name}.attention.self.{part}": size for part in ("query", "key", "value")}
        neurons = attention.config.intermediate_size
        return [
            (heads, inputs, f"{name}.attention.output.dense", size),
            (neurons, {f"{name}.intermediate.dense": 1}, f"{name}.output.dense", 1),
        ]
    return []


def unit_count(blocks: Sequence[Block]) -> int:
    """How many units a model has."""
    return blocks[-1].first + blocks[-1].count


def layer_weights(model: PreTrainedModel, blocks: Sequence[Block]) -> float:
    """How many weights a layer has that belong to units.

    Args:
        model: the base, possibly wrapped.
        blocks: of the model, two a layer.

    Returns:
        Their number, the mean over layers.
    """
    names = [name for block in blocks for name in (*block.incoming, block.outgoing)]
    layers: list[Any] = [model.get_submodule(name) for name in names]
    weights = sum(int(getattr(layer, "base", layer).weight.numel()) for layer in layers)
    return 2 * weights / len(blocks)


def kept_units(importance: Tensor, blocks: Sequence[Block], rate: float) -> Tensor:
    """The most important units of each block, as many as the rate leaves: the same share in every layer.

    A layer's operations then shrink as (1 - rate) says, whichever units a client keeps; the number of units that are
    kept is rounded up, so that no rate is exceeded.

    Args:
        importance: fp32 [units], from 0 up.
        blocks: of the model.
        rate: share of the units that are left out, from 0 up, below 1.

    Returns:
        bool [units]; of equally important units the first.
    """
    kept = torch.zeros(len(importance), dtype=torch.bool)
    for block in blocks:
        number = max(1, math.ceil((1 - rate) * block.count - ROUNDING))
        best = block.of(importance).sort(descending=True, stable=True).indices[:number]
        kept[block.first + best] = True
    return kept


def masks_of(blocks: Sequence[Block], kept: Tensor) -> dict[str, Tensor]:
    """What the inputs of outgoing layers are multiplied with where groups leave out units.

    Args:
        blocks: of the model.
        kept: [groups, units], 1 where a group keeps a unit, else 0.

    Returns:
        [groups, inputs] for each outgoing layer, by its name.
    """
    return {block.outgoing: block.of(kept).repeat_interleave(block.columns, -1) for block in blocks}


def slices_of(blocks: Sequence[Block], kept: Tensor) -> dict[str, Slice]:
    """What is left of linear layers without the units that are left out.

    Args:
        blocks: of the model.
        kept: bool [units].

    Returns:
        By name, for every layer that units belong to.
    """
    slices: dict[str, Slice] = {}
    for block in blocks:
        own = block.of(kept)
        slices[block.outgoing] = Slice(None, own.repeat_interleave(block.columns).nonzero()[:, 0])
        for name, rows in block.incoming.items():
            slices[name] = Slice(own.repeat_interleave(rows).nonzero()[:, 0], None)
    return slices


def ties_of(blocks: Sequence[Block], shapes: Shapes) -> dict[str, Tie]:
    """Which rows and columns of LoRA's factors belong to units: of B what a unit is computed with, of A what reads it.

    Args:
        blocks: of the model.
        shapes: of the adapter's tensors, by name.

    Returns:
        A tie for each tensor that has any, by name.
    """
    ties: dict[str, Tie] = {}
    for block in blocks:
        for name, rows in block.incoming.items():
            ties[f"{PREFIX}{name}.lora_B.weight"] = Tie(block.first, block.count, rows, 0)
        ties[f"{PREFIX}{block.outgoing}.lora_A.weight"] = Tie(block.first, block.count, block.columns, 1)
    return {name: tie for name, tie in ties.items() if name in shapes}
