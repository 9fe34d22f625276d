"""One forward pass of a packed batch: logits only where a label is."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.packing import FEWEST_ROWS, PackedBatch


def label_logits(model: PreTrainedModel, lora: GroupedLora, batch: PackedBatch) -> Tensor:
    """Run the model and compute the vocabulary's logits at labelled positions only.

    Args:
        model: the frozen base with its wrapped layers.
        lora: the adapters; their groups are those of the batch.
        batch: packed examples.

    Returns:
        [labels, vocabulary] in the base's dtype.
    """
    lora.group_starts = batch.group_starts
    arguments = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "packed_layout": batch.layout,
        "use_cache": False,
    }
    labels = len(batch.labels)
    # See FEWEST_ROWS: the output head, too, always multiplies a fair number of rows, and few different numbers.
    positions = torch.nn.functional.pad(batch.label_positions, (0, -labels % FEWEST_ROWS))
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: Tensor = model(**arguments, logits_to_keep=positions).logits[0]
    else:
        logits = model(**arguments).logits[0].index_select(0, positions)
    return logits[:labels]


def label_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label, in fp32.

    Args:
        logits: [labels, vocabulary].
        labels: int64 [labels].

    Returns:
        fp32 [labels], in nats.
    """
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
