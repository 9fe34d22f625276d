"""The last layer of an encoder, where all but the rows at which classes are read would be computed for nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.decoder_layer import LabelRows
from fedloom.model.grouped_adapter import GroupedAdapter

# Layers of these classes are attention, its output, and a feed-forward part with its own.
FAMILY = {"BertLayer", "RobertaLayer"}


class LastEncoderLayer:
    """Takes the place of the last layer's forward: after attention only the read rows go on, where they are named.

    Args:
        layer: the layer of the base model, its linear layers possibly wrapped.
        grouped: the adapters.
    """

    def __init__(self, layer: Any, grouped: GroupedAdapter[Any]) -> None:
        self.layer = layer
        self.grouped = grouped
        self.whole = layer.forward

    def __call__(self, hidden_states: Tensor, *others: Any, packed_labels: LabelRows | None = None, **more: Any) -> Any:
        """Carry [1, tokens, size] through the layer; the contract of transformers' encoder layers.

        Args:
            hidden_states: activations.
            others: what the layer itself needs.
            packed_labels: the rows that go on; None: all.
            more: what the layer itself needs.

        Returns:
            [1, rows, size].
        """
        if packed_labels is None:
            return self.whole(hidden_states, *others, **more)
        attended, _ = self.layer.attention.self(hidden_states, **more)
        attended, residual = (values.index_select(1, packed_labels.positions) for values in (attended, hidden_states))
        self.grouped.group_starts = packed_labels.group_starts
        return self.layer.feed_forward_chunk(self.layer.attention.output(attended, residual))


def use_read_rows(model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> None:
    """Let the last layer of BERT's family end with the read rows; leave other models as they are.

    Args:
        model: the frozen base, a classifier, its target layers wrapped.
        grouped: the adapters; `reads_rows` says whether it was done.
    """
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ in FAMILY]
    if layers and grouped.reader is not None and not grouped.reader.causal:
        layers[-1].forward = LastEncoderLayer(layers[-1], grouped).__call__
        grouped.reads_rows = True
