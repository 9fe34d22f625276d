"""How much each unit of the base matters to a client: one pass forwards and backwards over some of its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.pruned_pass import PrunedPass, leaving_out
from fedloom.model.units import Block, masks_of, unit_count


def unit_importance(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    blocks: Sequence[Block],
    adapter: Mapping[str, Tensor],
    examples: ExampleSet,
    indices: Sequence[int] | np.ndarray,
) -> Tensor:
    """First-order importance of every unit: |dL/dm|, m = 1 being a factor on what the unit gives to the next layer.

    It is |sum_t h_t dL/dh_t| over the unit's activations h and the batch's tokens t, which is |sum w dL/dw| over its
    outgoing weights (those of an adapter on that layer included): both are how the loss changes where these are scaled.
    Of heads this is the importance of arXiv 1905.10650 (equation 2), with the batch's gradient in place of single
    examples' (our choice: one pass); of neurons, the Taylor criterion of arXiv 1611.06440.

    Args:
        model: the frozen base, made prunable.
        grouped: where the adapter is put; what it holds is replaced.
        blocks: of the model.
        adapter: under which to measure.
        examples: where the examples are.
        indices: which of them.

    Returns:
        fp32 [units], from 0 up, on the CPU.
    """
    grouped.load([adapter], trainable=False)
    factors = torch.ones(1, unit_count(blocks), device=grouped.device, requires_grad=True)
    with leaving_out(grouped, PrunedPass(masks_of(blocks, factors), {})):
        batch = pack_groups(grouped, [examples_at(examples, indices)])
        loss = label_losses(model, grouped, batch).mean()
        (gradient,) = torch.autograd.grad(loss, factors)
    return gradient[0].abs().float().cpu()
