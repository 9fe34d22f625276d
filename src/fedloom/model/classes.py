"""What a classification asks of its base: which of transformers' model classes, and which part of it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from fedloom.errors import UserError
from fedloom.recipe.task_schema import TaskConfig

# What transformers' models for sequence classification call their head; PEFT looks for the same names.
HEADS = ("score", "classifier")


@dataclass(frozen=True)
class Classes:
    """The classes that examples are told apart by.

    Args:
        head: linear: a trained head of the base's own architecture; label_words: its language model head, frozen.
        count: how many classes.
        words: of label_words, the token whose logit is that of each class.
    """

    head: Literal["linear", "label_words"]
    count: int
    words: tuple[int, ...] = ()


def classes_of(task: TaskConfig, labels: list[str], words: list[int]) -> Classes | None:
    """The classes of a run.

    Args:
        task: the recipe's section.
        labels: the classes' names, in order.
        words: of label_words, a token for each of them.

    Returns:
        The classes; None where the task is none of classification.
    """
    return None if task.head is None else Classes(task.head, len(labels), tuple(words))


def model_class(head: str | None, has_mask: bool) -> Any:
    """The class of transformers that a base is loaded as.

    Args:
        head: of the task; None for sft.
        has_mask: whether the base's tokenizer has a token for masked words.

    Returns:
        One of transformers' auto classes.
    """
    if head == "linear":
        return AutoModelForSequenceClassification
    return AutoModelForMaskedLM if head == "label_words" and has_mask else AutoModelForCausalLM


def is_causal(model: PreTrainedModel) -> bool:
    """Whether a model's tokens see only what precedes them, as its attention layers say (weights may be on meta)."""
    return all(getattr(module, "is_causal", True) for module in model.modules())


def trained_head(model: PreTrainedModel) -> str | None:
    """The module of a sequence classifier that is its head.

    Args:
        model: the base (weights may be on the meta device).

    Returns:
        Its name; None for other models.

    Raises:
        UserError: for a sequence classifier whose head was not found.
    """
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    children = dict(model.named_children())
    found = next((name for name in HEADS if name in children), None)
    if found is None:
        raise UserError(
            f"model.base: {type(model).__name__} has none of the heads {', '.join(HEADS)}, and no others are known",
            hint="task.head: label_words classifies without a trained head",
        )
    return found


def first_position(model: PreTrainedModel) -> int:
    """The position of an example's first token: RoBERTa's models count from one after the padding token's id on.

    Args:
        model: the base (weights may be on the meta device).

    Returns:
        0 for all others.
    """
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    counts_from_padding = isinstance(embeddings, nn.Module) and hasattr(
        embeddings, "create_position_ids_from_input_ids"
    )
    return int(embeddings.padding_idx) + 1 if counts_from_padding else 0
