"""The last layer of BERT's family: past attention, only the tokens at which classes are read go on.

Nothing else of it is ever looked at, and its blocks are five sixths of its products.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.checkpointing import decoder_layers
from fedloom.model.decoder_layer import LabelRows
from fedloom.model.grouped_adapter import GroupedAdapter

# Layers of these classes are built as `BertLayer` is (tests/model/test_classifiers.py compares two of them).
FAMILY = {"BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ElectraLayer"}


def read_last_layer_at_labels(model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> None:
    """Let the last layer of BERT's family go on with labelled rows only; leave other models as they are.

    Args:
        model: the frozen base, its target layers wrapped.
        grouped: the adapters; `last_at_labels` says what was done.
    """
    layers = decoder_layers(model)
    if grouped.reader is None or not layers or type(layers[-1]).__name__ not in FAMILY:
        return
    attention: Any = layers[-1].attention
    everywhere = attention.forward

    def at_labels(hidden: Tensor, *arguments: Any, packed_labels: LabelRows | None = None, **others: Any) -> Any:
        if packed_labels is None:
            return everywhere(hidden, *arguments, **others)
        attended, weights = attention.self(hidden, *arguments, **others)
        # From here on there is a row for each label.
        grouped.group_starts = packed_labels.group_starts
        rows = (values[0].index_select(0, packed_labels.positions)[None] for values in (attended, hidden))
        return attention.output(*rows), weights

    attention.forward = at_labels
    grouped.last_at_labels = True
