"""From phrased preferences to token ids: a prompt, and after it one answer or two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.data.control_tokens import is_marked
from fedloom.data.preferences import Preference
from fedloom.data.templates import Segment, Template
from fedloom.data.tokenizing import ANSWER_CUT_OFF, EXAMPLES_PER_BATCH, Rejected, SegmentTokenizer, Tokenized
from fedloom.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAME_WHEN_CUT = "both answers are the same within max_tokens"


@dataclass(frozen=True)
class PhrasedPreference:
    """A preference as stretches of text.

    Args:
        prompt: what all answers follow.
        answers: for each answer what follows the prompt.
    """

    prompt: list[Segment]
    answers: list[list[Segment]]


@dataclass(frozen=True)
class Stretch:
    """Some tokens in a row, and which of them the model learns to predict."""

    ids: list[int]
    trained: list[bool]


def phrase_preference(template: Template, preference: Preference) -> PhrasedPreference:
    """Phrase a preference.

    Args:
        template: phrases conversations.
        preference: the prompt and its answers.

    Returns:
        Its stretches of text. Nothing of the prompt is trained, and of answers only the turns of the assistant.

    Raises:
        UserError: where the template can't phrase a conversation, or what it writes before an answer depends on it.
    """
    prompt = template.prompt_segments(preference.prompt)
    answers = []
    for answer in preference.answers:
        segments = template.segments([*preference.prompt, *answer])
        if segments[: len(prompt)] != prompt:
            raise UserError(
                "data.template: what it writes before an answer depends on the answer, so two answers have no prompt "
                "in common",
                hint="use a template that does not look ahead, such as alpaca or plain",
            )
        answers.append(segments[len(prompt) :])
    return PhrasedPreference([Segment(segment.text, False) for segment in prompt], answers)


def tokenize_preferences(
    preferences: Iterable[PhrasedPreference], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Tokenized:
    """Tokenise preferences, all with as many answers, and cut them to length.

    Args:
        preferences: taken batch by batch.
        tokenizer: of the base model.
        max_tokens: longest prompt with answer; see `kept_lengths`.

    Returns:
        The prompts with their first answers, and of pairs `rejected`. Left out are preferences of which an answer keeps
        no trained token, and pairs whose answers are the same.
    """
    segment_tokenizer = SegmentTokenizer(tokenizer)
    halves = [_Sequences() for _ in range(2)]
    prompt_lengths: list[int] = []
    kept: list[int] = []
    left_out: dict[int, str] = {}
    truncated, spelt_out, start = 0, 0, 0
    waiting = iter(preferences)
    while batch := list(islice(waiting, EXAMPLES_PER_BATCH)):
        pieces = iter(segment_tokenizer([[*one.prompt, *answer] for one in batch for answer in one.answers]))
        for place, one in enumerate(batch, start):
            encoded = [next(pieces) for _ in one.answers]
            prompt, answers = _stretches(one, encoded)
            opening = segment_tokenizer.opening(prompt.ids)
            first, *lengths = kept_lengths(
                len(prompt.ids), [len(answer.ids) for answer in answers], opening, max_tokens
            )
            cut_prompt = _ends(prompt, opening, first)
            cut_answers = [_ends(answer, length, length) for answer, length in zip(answers, lengths, strict=True)]
            reason = _unusable(cut_prompt, cut_answers)
            if reason is not None:
                left_out[place] = reason
                continue
            kept.append(place)
            prompt_lengths.append(first)
            truncated += first < len(prompt.ids) or any(map(_differ, cut_answers, answers))
            spelt_out += any(is_marked(segment.text) for part in (one.prompt, *one.answers) for segment in part)
            halves[0].add(cut_prompt, cut_answers[0])
            if len(cut_answers) > 1:
                halves[1].add(cut_answers[1])
        start += len(batch)
        for half in halves:
            half.end_batch()
    tokens, trained, offsets = halves[0].laid_out()
    rejected = None
    if len(halves[1].lengths):
        rejected = Rejected(*halves[1].laid_out(), np.array(prompt_lengths, dtype=np.int32))
    return Tokenized(
        tokens=tokens,
        trained=trained,
        offsets=offsets,
        kept=np.array(kept, dtype=np.int64),
        truncated=truncated,
        spelt_out=spelt_out,
        left_out=left_out,
        rejected=rejected,
    )


def kept_lengths(prompt: int, answers: Sequence[int], opening: int, max_tokens: int) -> list[int]:
    """Say how much of a prompt and of its answers fits.

    First the prompt loses tokens at its beginning, but those that open every text, until the longest answer fits, or
    half of the room is left to it; then answers lose tokens at their end. That the prompt keeps half of the room is our
    choice: answers longer than max_tokens would take all of it.

    Args:
        prompt: its tokens.
        answers: tokens of each answer.
        opening: of the prompt's first tokens those that the tokenizer puts before every text.
        max_tokens: longest prompt with answer.

    Returns:
        Tokens that are kept of the prompt, the same before all answers, and then of each answer.
    """
    kept = min(prompt, max(max_tokens - max(answers), max_tokens // 2, opening + 1))
    return [kept, *(min(answer, max_tokens - kept) for answer in answers)]


class _Sequences:
    """Sequences laid end to end; one array for each batch, as one for each sequence would outweigh its tokens."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._ids: list[int] = []
        self._trained: list[bool] = []
        self._batches: list[tuple[NDArray[np.int64], NDArray[np.bool_]]] = []

    def add(self, *parts: Stretch) -> None:
        self.lengths.append(sum(len(part.ids) for part in parts))
        for part in parts:
            self._ids.extend(part.ids)
            self._trained.extend(part.trained)

    def end_batch(self) -> None:
        self._batches.append((np.array(self._ids, dtype=np.int64), np.array(self._trained, dtype=np.bool_)))
        self._ids, self._trained = [], []

    def laid_out(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Token ids, which are trained, and where each sequence starts."""
        offsets = np.cumsum([0, *self.lengths], dtype=np.int64)
        if not self._batches:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_), offsets
        ids, trained = zip(*self._batches, strict=True)
        return np.concatenate(ids), np.concatenate(trained), offsets


def _stretches(phrased: PhrasedPreference, encoded: Sequence[list[list[int]]]) -> tuple[Stretch, list[Stretch]]:
    start = len(phrased.prompt)
    answers = [_stretch(parts, ids[start:]) for parts, ids in zip(phrased.answers, encoded, strict=True)]
    # Every stretch is tokenised by itself, so the prompt has the same tokens before each answer.
    return _stretch(phrased.prompt, encoded[0][:start]), answers


def _stretch(segments: Sequence[Segment], ids: Sequence[list[int]]) -> Stretch:
    pairs = list(zip(segments, ids, strict=True))
    trained = [segment.trained for segment, piece in pairs for _ in piece]
    return Stretch([token for _, piece in pairs for token in piece], trained)


def _ends(whole: Stretch, first: int, length: int) -> Stretch:
    """Some first tokens, and as many last ones as make up a length."""
    if len(whole.ids) <= length:
        return whole
    last = len(whole.ids) - (length - first)
    return Stretch(whole.ids[:first] + whole.ids[last:], whole.trained[:first] + whole.trained[last:])


def _differ(one: Stretch, other: Stretch) -> bool:
    return len(one.ids) != len(other.ids)


def _unusable(prompt: Stretch, answers: Sequence[Stretch]) -> str | None:
    # A trained token at position 0 is no label: nothing precedes it that could predict it.
    if not all(any(answer.trained[not prompt.ids :]) for answer in answers):
        return ANSWER_CUT_OFF
    return SAME_WHEN_CUT if len(answers) > 1 and answers[0] == answers[1] else None
