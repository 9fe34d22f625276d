"""From an allocation to tokens: conversations and preferences by a template, labelled texts by their task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.data.allocation import Allocation, Example
from fedloom.data.label_tokens import tokenize_texts
from fedloom.data.labelled_text import LabelledText
from fedloom.data.preference_tokens import PhrasedPreference, phrase_preference, tokenize_preferences
from fedloom.data.preferences import Preference
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
        desirable: [kept] uint8, whether a single answer is; None where no preference is learnt from single answers.
    """

    tokenized: Tokenized
    labels: NDArray[np.int32] | None = None
    words: list[int] = field(default_factory=list)
    desirable: NDArray[np.uint8] | None = None


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
        return Phrased(tokenize(segments, tokenizer, max_tokens))
    if recipe.task.kind == "dpo":
        return _preferences(recipe, allocation, tokenizer)
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


def _preferences(recipe: Recipe, allocation: Allocation, tokenizer: PreTrainedTokenizerBase) -> Phrased:
    template = load_template(recipe.data.template, tokenizer)
    phrased = (_preference(template, example) for example in allocation.examples)
    tokenized = tokenize_preferences(phrased, tokenizer, recipe.data.max_tokens)
    if not recipe.task.pairs_are_split:
        return Phrased(tokenized)
    contents = (allocation.examples[place].content for place in tokenized.kept)
    desirable = [isinstance(content, Preference) and content.desirable for content in contents]
    return Phrased(tokenized, desirable=np.array(desirable, dtype=np.uint8))


def _segments(template: Template, example: Example) -> list[Segment]:
    assert isinstance(example.content, list)
    with _told_with_origin(example):
        return template.segments(example.content)


def _preference(template: Template, example: Example) -> PhrasedPreference:
    assert isinstance(example.content, Preference)
    with _told_with_origin(example):
        return phrase_preference(template, example.content)


@contextmanager
def _told_with_origin(example: Example) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{example.origin}: {error.message}", hint=error.hint) from None
