"""One forward pass of a packed batch, with the output head only where a label is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.model.decoder_layer import LabelRows
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.head_loss import label_cross_entropy, label_scores
from fedloom.model.packing import FEWEST_ROWS, Example, PackedBatch, pack


def pack_groups(
    grouped: GroupedAdapter[Any], groups: Sequence[Sequence[Example]], share_prompts: bool = True
) -> PackedBatch:
    """Pack examples as the loaded adapters and their base need them.

    Args:
        grouped: the adapters.
        groups: for each group its examples; a group may be empty.
        share_prompts: see `pack`; never where tokens see what follows them.

    Returns:
        The batch.
    """
    reads_first = grouped.reader is not None and not grouped.reader.causal
    share = share_prompts and not reads_first
    return pack(groups, grouped.device, share, grouped.places, grouped.virtual_apart, reads_first)


def label_losses(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> Tensor:
    """Cross-entropy of every label.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters; their groups are those of the batch.
        batch: packed examples.

    Returns:
        fp32 [labels], in nats.
    """
    if grouped.reader is not None:
        logits = class_logits(model, grouped, batch)
        return nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    if grouped.trains_head or not grouped.plain_head:
        logits = label_logits(model, grouped, batch)
        return nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none")
    hidden, labels = _at_labels(model, grouped, batch)
    head = model.get_output_embeddings()
    return label_cross_entropy(hidden, head.weight, labels, head.bias)[: len(batch.labels)]


@torch.no_grad()
def score_labels(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of every label, whether it is the most likely one, and which that is.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters; their groups are those of the batch.
        batch: packed examples.

    Returns:
        fp32 [labels] in nats, bool [labels], and int64 [labels]: the most likely tokens, or classes.
    """
    if grouped.reader is not None or not grouped.plain_head:
        logits = (label_logits if grouped.reader is None else class_logits)(model, grouped, batch)
        losses = nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none")
        predicted = logits.argmax(-1)
        return losses, predicted == batch.labels, predicted
    hidden, labels = _at_labels(model, grouped, batch)
    head = model.get_output_embeddings()
    losses, predicted = (x[: len(batch.labels)] for x in label_scores(hidden, head.weight, labels, head.bias))
    return losses, predicted == batch.labels, predicted


# Given rows, their log-probabilities of all tokens, fp32 [rows, vocabulary].
LabelDistributions = Callable[[slice], Tensor]


@torch.no_grad()
def label_distributions(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> LabelDistributions:
    """The distributions over the vocabulary at every label, a few rows at a time.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters; their groups are those of the batch.
        batch: packed examples.

    Returns:
        What gives the log-probabilities at labels; beyond the last may be rows of filler. It holds what it needs of the
        loaded adapters.
    """
    if grouped.trains_head or not grouped.plain_head:
        logits = label_logits(model, grouped, batch)
        return lambda rows: torch.log_softmax(logits[rows], -1, dtype=torch.float32)
    hidden, _ = _at_labels(model, grouped, batch)
    head = model.get_output_embeddings()
    return lambda rows: torch.log_softmax(head(hidden[rows]), -1, dtype=torch.float32)


def class_logits(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> Tensor:
    """The logits of every class, for each example.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters, of a classifier; their groups are those of the batch.
        batch: packed examples, each with a class.

    Returns:
        fp32 [examples, classes].
    """
    assert grouped.reader is not None
    rows, _ = _rows_at_labels(model, grouped, batch)
    starts = (0, *batch.label_counts.cumsum(0).tolist())
    # What follows the base's layers works on a row for each example.
    grouped.group_starts = starts
    heads = grouped.heads
    if heads and grouped.squares is not None:
        # All groups have the same one.
        starts, heads = (0, starts[-1]), {name: values[:1] for name, values in heads.items()}
    return grouped.reader.logits(rows.to(model.dtype), starts, heads)


def label_logits(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> Tensor:
    """The vocabulary's logits at every label, for those who want to look at them.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters; their groups are those of the batch.
        batch: packed examples.

    Returns:
        [labels, vocabulary] in the base's dtype.
    """
    grouped.group_starts = batch.group_starts
    if not grouped.plain_head:
        everywhere: Tensor = model(**_arguments(model, grouped, batch)).logits[0]
        return everywhere.index_select(0, batch.label_positions)
    hidden, _ = _at_labels(model, grouped, batch)
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits[: len(batch.labels)]


def states_everywhere(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> Tensor:
    """What leaves the uppermost layer at every token, for those who look at layers: all of them are run.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters; their groups are those of the batch.
        batch: packed examples.

    Returns:
        [tokens, size], filler included.
    """
    grouped.group_starts = batch.group_starts
    arguments = _arguments(model, grouped, batch)
    if grouped.own_layers:
        # Otherwise the uppermost layer would end with the rows that the head needs.
        everywhere = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        arguments["packed_labels"] = LabelRows(everywhere, batch.group_starts)
    states: Tensor = model.base_model(**arguments).last_hidden_state[0]
    return states


def _at_labels(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> tuple[Tensor, Tensor]:
    hidden, labels = _rows_at_labels(model, grouped, batch)
    return hidden.to(model.get_output_embeddings().weight.dtype), labels


def _rows_at_labels(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """What the head is applied to, [labels + filler, size], and the labels with 0 for the filler."""
    grouped.group_starts = batch.group_starts
    # See FEWEST_ROWS: the output head, too, always multiplies a fair number of rows, and few different numbers.
    filler = (0, -len(batch.labels) % FEWEST_ROWS)
    positions, labels = (nn.functional.pad(x, filler) for x in (batch.label_positions, batch.labels))
    base, arguments = model.base_model, _arguments(model, grouped, batch)
    if grouped.frozen_prefix is not None:
        base = grouped.frozen_prefix.upper
        del arguments["input_ids"]
        arguments["inputs_embeds"] = grouped.frozen_prefix.inputs(batch)
    if grouped.last_at_labels:
        starts = (0, *batch.label_counts.cumsum(0).tolist())
        hidden = base(**arguments, packed_labels=LabelRows(positions, starts)).last_hidden_state[0]
    else:
        hidden = base(**arguments).last_hidden_state[0].index_select(0, positions)
    return hidden, labels


def _arguments(model: PreTrainedModel, grouped: GroupedAdapter[Any], batch: PackedBatch) -> dict[str, Any]:
    arguments = {
        **grouped.inputs(model, batch),
        "position_ids": batch.position_ids,
        "packed_layout": batch.layout,
        "use_cache": False,
    }
    if grouped.reader is not None and grouped.reader.first_position:
        arguments["position_ids"] = batch.position_ids + grouped.reader.first_position
    if batch.token_type_ids is not None:
        arguments["token_type_ids"] = batch.token_type_ids
    return arguments
