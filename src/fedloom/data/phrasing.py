"""From an allocation to tokens: conversations by a template, labelled texts by their task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.data.allocation import Allocation, Example
from fedloom.data.label_tokens import tokenize_texts
from fedloom.data.labelled_text import LabelledText
from fedloom.data.templates import Segment, Template, load_template
from fedloom.data.text_frame import read_pattern, word_tokens
from fedloom.data.tokenizing import Tokenized, tokenize
from fedloom.errors import MAX_SHOWN, UserError
from fedloom.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Phrased:
    """The tokens of an allocation's examples.

    Args:
        tokenized: the examples that are kept.
        labels: [kept] int32, the class of each; None for other tasks than classification.
        words: the token that stands for each class; empty where classes have no words.
    """

    tokenized: Tokenized
    labels: NDArray[np.int32] | None
    words: list[int]


def phrase(recipe: Recipe, allocation: Allocation, tokenizer: PreTrainedTokenizerBase) -> Phrased:
    """Tokenise examples as the recipe's task has it.

    Args:
        recipe: the recipe.
        allocation: the examples.
        tokenizer: of the base model.

    Returns:
        Their tokens.

    Raises:
        UserError: where template, pattern or words do not fit the tokenizer or the data.
    """
    max_tokens = recipe.data.max_tokens
    if recipe.task.kind == "sft":
        template = load_template(recipe.data.template, tokenizer)
        # One batch of phrased texts exists at a time.
        segments = (_segments(template, example) for example in allocation.examples)
        return Phrased(tokenize(segments, tokenizer, max_tokens), None, [])
    pattern, words = None, recipe.task.words or []
    if recipe.task.pattern is not None:
        pattern = read_pattern(recipe.task.pattern, tokenizer)
        if len(words) != len(allocation.labels):
            shown = ", ".join(allocation.labels[:MAX_SHOWN])
            raise UserError(f"task.words: {len(words)} words for {len(allocation.labels)} labels: {shown}")
    tokens = [] if pattern is None else word_tokens(words, pattern, tokenizer)
    texts = [example.content for example in allocation.examples if isinstance(example.content, LabelledText)]
    number = {label: place for place, label in enumerate(allocation.labels)}
    labels = np.array([number[text.label] for text in texts], dtype=np.int32)
    return Phrased(tokenize_texts(texts, tokenizer, max_tokens, pattern), labels, tokens)


def _segments(template: Template, example: Example) -> list[Segment]:
    assert not isinstance(example.content, LabelledText)
    try:
        return template.segments(example.content)
    except UserError as error:
        raise UserError(f"{example.origin}: {error.message}", hint=error.hint) from None
