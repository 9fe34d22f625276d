"""From segments of text to token ids with a mask of what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.data.control_tokens import ControlTokens, encode_marked, is_marked
from fedloom.data.conversation import Message
from fedloom.data.templates import Segment, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_CUT_OFF = "no answer within max_tokens"

# Fast tokenizers work in batches; this many examples keep the Python lists of one batch small.
EXAMPLES_PER_BATCH = 1000
# Text that stands before a continuation while it is tokenised, and whose tokens are then taken off again.
_LEAD = "\n"


@dataclass(frozen=True)
class Rejected:
    """What follows the prompt in the rejected halves of pairs, laid end to end.

    Args:
        tokens: [total] int64, token ids.
        trained: [total] bool, whether the model learns to predict the token.
        offsets: [examples + 1] int64, where each starts.
        prompt_lengths: [examples] int32, tokens of the prompt, with which the chosen half begins, too.
    """

    tokens: NDArray[np.int64]
    trained: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]


@dataclass(frozen=True)
class Tokenized:
    """Token ids of examples laid end to end.

    Args:
        tokens: [total] int64, token ids.
        trained: [total] bool, whether the model learns to predict the token.
        offsets: [examples + 1] int64, where each example starts.
        kept: [examples] int64, which of the given examples these are.
        truncated: how many of the kept examples were cut to the longest length allowed.
        spelt_out: how many of the kept examples spell a control token out, which stays text.
        left_out: for each of the other given examples the reason.
        places: [examples] int32, at which token a class is read; None where none is, or the model decides.
        token_types: [total] uint8, to which text of a pair a token belongs; None where tokenizers don't say.
        rejected: of pairs of answers the other half; None where there are no pairs.
    """

    tokens: NDArray[np.int64]
    trained: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    kept: NDArray[np.int64]
    truncated: int
    spelt_out: int
    left_out: Mapping[int, str]
    places: NDArray[np.int32] | None = None
    token_types: NDArray[np.uint8] | None = None
    rejected: Rejected | None = None


class SegmentTokenizer:
    """Tokenises each segment on its own, so that a prompt has the same tokens in training and generation.

    Args:
        tokenizer: of the base model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._first_text = tokenizer.bos_token if isinstance(tokenizer.bos_token, str) else None
        self._first_ids = _ids_before_text(tokenizer)
        self._lead_ids = encode_texts(tokenizer, [_LEAD])[0]
        # SentencePiece-like tokenizers put a space before any text: right for the first segment only.
        bare, led = encode_texts(tokenizer, ["a", _LEAD + "a"])
        self._adds_space = led != self._lead_ids + bare

    def __call__(self, examples: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """Tokenise examples.

        Args:
            examples: the segments of each example.

        Returns:
            For each example and segment, its token ids; the first has the tokenizer's opening tokens.
            A control token that a record spells out is text.
        """
        texts = [
            _LEAD + segment.text if place and self._adds_space else segment.text
            for segments in examples
            for place, segment in enumerate(segments)
        ]
        encoded = iter(encode_texts(self._tokenizer, texts) if texts else [])
        return [
            [self._placed(next(encoded), segment.text, place) for place, segment in enumerate(segments)]
            for segments in examples
        ]

    def opening(self, ids: Sequence[int]) -> int:
        """Count the first tokens of an example that open every text, such as the one that begins a sequence."""
        opened = list(ids[: len(self._first_ids)]) == self._first_ids
        return len(self._first_ids) if opened else 0

    def _placed(self, ids: list[int], text: str, place: int) -> list[int]:
        if place == 0:
            written = self._first_text is not None and text.startswith(self._first_text)
            return ids if written else self._first_ids + ids
        if not self._adds_space:
            return ids
        if ids[: len(self._lead_ids)] == self._lead_ids:
            return ids[len(self._lead_ids) :]
        # The lead has merged into the text's own first token: keep the text's plain tokens.
        return encode_texts(self._tokenizer, [text])[0]


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts without anything around them.

    Args:
        tokenizer: of the base model.
        texts: where a record spells a control token out, with marks (see `ControlTokens.mark`).

    Returns:
        The token ids of each.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [
        encode_marked(text, tokenizer) if is_marked(text) else list(ids)
        for text, ids in zip(texts, encoded["input_ids"], strict=True)
    ]


def tokenize(examples: Iterable[Sequence[Segment]], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Tokenized:
    """Tokenise examples, cut them to length and drop those that would train nothing.

    Args:
        examples: the segments of each example; taken batch by batch.
        tokenizer: of the base model.
        max_tokens: longest example; what goes beyond is cut off at the end.

    Returns:
        The examples that keep at least one label. A trained token at position 0 is no label: nothing
        precedes it that could predict it.
    """
    segment_tokenizer = SegmentTokenizer(tokenizer)
    tokens: list[NDArray[np.int64]] = []
    trained: list[NDArray[np.bool_]] = []
    lengths: list[int] = []
    kept: list[int] = []
    left_out: dict[int, str] = {}
    truncated, spelt_out, start = 0, 0, 0
    waiting = iter(examples)
    while batch := list(islice(waiting, EXAMPLES_PER_BATCH)):
        ids_of_batch: list[int] = []
        masks: list[NDArray[np.bool_]] = []
        for place, (segments, pieces) in enumerate(zip(batch, segment_tokenizer(batch), strict=True), start):
            ids = [token for piece in pieces for token in piece]
            mask = np.repeat([segment.trained for segment in segments], [len(piece) for piece in pieces])
            if not mask[1:max_tokens].any():
                left_out[place] = ANSWER_CUT_OFF
                continue
            truncated += len(ids) > max_tokens
            spelt_out += any(is_marked(segment.text) for segment in segments)
            ids_of_batch.extend(ids[:max_tokens])
            masks.append(mask[:max_tokens])
            lengths.append(len(masks[-1]))
            kept.append(place)
        start += len(batch)
        if masks:
            # One array for each batch: one for each example would outweigh its tokens.
            tokens.append(np.array(ids_of_batch, dtype=np.int64))
            trained.append(np.concatenate(masks))
    return Tokenized(
        tokens=np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int64),
        trained=np.concatenate(trained) if trained else np.zeros(0, dtype=np.bool_),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        kept=np.array(kept, dtype=np.int64),
        truncated=int(truncated),
        spelt_out=spelt_out,
        left_out=left_out,
    )


def tokenize_prompt(segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """Tokenise a prompt exactly as training saw it.

    Args:
        segments: from `Template.prompt_segments`.
        tokenizer: of the base model.

    Returns:
        [tokens] int64, token ids to generate from.
    """
    pieces = SegmentTokenizer(tokenizer)([segments])[0]
    return np.array([token for piece in pieces for token in piece], dtype=np.int64)


def end_tokens(template: Template, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find what an answer ends with: the tokenizer's eos token and, where it is another, the template's own.

    Args:
        template: phrases conversations.
        tokenizer: of the base model.

    Returns:
        Token ids, none twice; empty where neither has one.
    """
    messages = [Message("user", "x"), Message("assistant", "x")]
    answer = next(segment for segment in reversed(template.segments(messages)) if segment.trained)
    last = SegmentTokenizer(tokenizer)([[answer]])[0][0][-1]
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if last not in ends and last in ControlTokens(tokenizer).ids:
        ends.append(last)
    return ends


def _ids_before_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    # What the tokenizer itself opens a text with; tokens it closes one with are the template's business.
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []
