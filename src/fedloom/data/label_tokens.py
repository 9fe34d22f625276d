"""From labelled texts to token ids, and to the place among them at which a class is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom.data.control_tokens import ControlTokens, is_marked
from fedloom.data.labelled_text import LabelledText
from fedloom.data.templates import Segment
from fedloom.data.text_frame import Frame, Pattern, read_frame
from fedloom.data.tokenizing import EXAMPLES_PER_BATCH, SegmentTokenizer, Tokenized, encode_texts
from fedloom.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """A stretch of an example's tokens.

    Args:
        ids: token ids.
        types: token type of each.
        is_text: whether it is a text, which may be cut.
        is_mask: whether the class is read here.
    """

    ids: list[int]
    types: list[int]
    is_text: bool = False
    is_mask: bool = False


class TextTokenizer:
    """Lays texts and pairs out as a model for classification reads them.

    Without a pattern they stand between the tokenizer's own special tokens; a pair stands on two lines where the
    tokenizer has no token that separates texts. With a pattern they stand in its places.

    Args:
        tokenizer: of the base model.
        pattern: around the texts, None for a linear head.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pattern: Pattern | None) -> None:
        self._tokenizer = tokenizer
        self._pattern = pattern
        self._control = ControlTokens(tokenizer)
        self._segments = SegmentTokenizer(tokenizer)
        alone = read_frame(tokenizer, pairs=False)
        assert alone is not None
        self._alone: Frame = alone
        self._pair = read_frame(tokenizer, pairs=True)

    def __call__(self, texts: Sequence[LabelledText]) -> list[list[Piece]]:
        """Tokenise texts.

        Args:
            texts: texts and pairs; a control token that one spells out is text.

        Returns:
            The pieces of each example, in order; never cut.
        """
        parts = [self._parts(one) for one in texts]
        framed = [place for place, one in enumerate(parts) if isinstance(one, Frame)]
        flat = [self._control.mark(text) for place in framed for text in _texts(texts[place])]
        encoded = iter(encode_texts(self._tokenizer, flat) if flat else [])
        written = iter(
            self._written([(one, text) for one, text in zip(parts, texts, strict=True) if isinstance(one, list)])
        )
        return [
            _between(one, [next(encoded) for _ in _texts(text)]) if isinstance(one, Frame) else next(written)
            for one, text in zip(parts, texts, strict=True)
        ]

    def spells_out(self, text: LabelledText) -> bool:
        """Tell whether a text spells a control token out."""
        return any(is_marked(self._control.mark(one)) for one in _texts(text))

    def _parts(self, text: LabelledText) -> Frame | list[str]:
        """What stands around a text: the tokenizer's frame, or words."""
        if self._pattern is not None:
            return self._pattern.parts
        if text.pair is None:
            return self._alone
        return self._pair if self._pair is not None else ["{text}", "\n{pair}"]

    def _written(self, examples: Sequence[tuple[list[str], LabelledText]]) -> list[list[Piece]]:
        """Write texts among words, all of which are tokenised each by itself."""
        opening, closing = self._alone.pieces[0], self._alone.pieces[-1]
        causal = self._pattern is not None and self._pattern.mask is None
        segments = []
        for parts, text in examples:
            held = {"{text}": self._control.mark(text.text), "{pair}": self._control.mark(text.pair or "")}
            segments.append([Segment(_filled(part, held), False) for part in parts if part != "{mask}"])
        found = []
        for (parts, _), pieces in zip(examples, self._segments(segments), strict=True):
            # The first piece has the opening tokens, which are never cut.
            rest = iter([pieces[0][len(opening) :], *pieces[1:]])
            laid_out = [_plain(opening)]
            for part in parts:
                if part != "{mask}":
                    laid_out.append(_plain(next(rest), is_text=part.endswith(("{text}", "{pair}"))))
                elif not causal:
                    assert self._pattern is not None
                    assert self._pattern.mask is not None
                    laid_out.append(_plain([self._pattern.mask], is_mask=True))
            # What would follow the last token of a causal model is what it is asked for.
            found.append(laid_out if causal else [*laid_out, _plain(closing)])
        return found


def tokenize_texts(
    texts: Iterable[LabelledText], tokenizer: PreTrainedTokenizerBase, max_tokens: int, pattern: Pattern | None
) -> Tokenized:
    """Tokenise labelled texts and cut them to length.

    Args:
        texts: texts and pairs; taken batch by batch.
        tokenizer: of the base model.
        max_tokens: longest example. What goes beyond is cut off the end of a text, of a pair's longer one first;
            special tokens and a pattern's words stay.
        pattern: around the texts, None for a linear head.

    Returns:
        All of them, none of whose tokens is trained. `places` is where the class is read, with a pattern; `token_types`
        are there where the tokenizer tells the texts of a pair apart.

    Raises:
        UserError: where max_tokens leaves a text no token.
    """
    text_tokenizer = TextTokenizer(tokenizer, pattern)
    tokens: list[NDArray[np.int64]] = []
    types: list[NDArray[np.uint8]] = []
    lengths: list[int] = []
    places: list[int] = []
    truncated, spelt_out = 0, 0
    waiting = iter(texts)
    while batch := list(islice(waiting, EXAMPLES_PER_BATCH)):
        ids_of_batch: list[int] = []
        types_of_batch: list[int] = []
        for text, whole in zip(batch, text_tokenizer(batch), strict=True):
            pieces = _cut(whole, max_tokens)
            length = sum(len(piece.ids) for piece in pieces)
            truncated += length < sum(len(piece.ids) for piece in whole)
            spelt_out += text_tokenizer.spells_out(text)
            lengths.append(length)
            if pattern is not None:
                places.append(_place(pieces))
            for piece in pieces:
                ids_of_batch.extend(piece.ids)
                types_of_batch.extend(piece.types)
        tokens.append(np.array(ids_of_batch, dtype=np.int64))
        types.append(np.array(types_of_batch, dtype=np.uint8))
    total = sum(lengths)
    return Tokenized(
        tokens=np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int64),
        trained=np.zeros(total, dtype=np.bool_),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        kept=np.arange(len(lengths), dtype=np.int64),
        truncated=truncated,
        spelt_out=spelt_out,
        left_out={},
        places=None if pattern is None else np.array(places, dtype=np.int32),
        token_types=np.concatenate(types) if any(one.any() for one in types) else None,
    )


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Cut a pair to length, the longer text first, as transformers' truncation "longest_first" does.

    Args:
        first: tokens of the first text.
        second: tokens of the second text.
        room: tokens that both may have together.

    Returns:
        Tokens that are kept of each.
    """
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)


def _texts(text: LabelledText) -> list[str]:
    return [text.text] if text.pair is None else [text.text, text.pair]


def _filled(part: str, texts: Mapping[str, str]) -> str:
    """A part of a pattern with its text, if it is the place of one."""
    name = part.lstrip()
    return part[: len(part) - len(name)] + texts[name] if name in texts else part


def _plain(ids: list[int], is_text: bool = False, is_mask: bool = False) -> Piece:
    return Piece(ids, [0] * len(ids), is_text, is_mask)


def _between(frame: Frame, texts: Sequence[list[int]]) -> list[Piece]:
    pieces = [Piece(frame.pieces[0], frame.piece_types[0])]
    for ids, kind, after, types in zip(texts, frame.text_types, frame.pieces[1:], frame.piece_types[1:], strict=True):
        pieces += [Piece(ids, [kind] * len(ids), is_text=True), Piece(after, types)]
    return pieces


def _cut(pieces: list[Piece], max_tokens: int) -> list[Piece]:
    room = max_tokens - sum(len(piece.ids) for piece in pieces if not piece.is_text)
    sizes = [len(piece.ids) for piece in pieces if piece.is_text]
    if sum(sizes) <= room:
        return pieces
    if room < len(sizes):
        raise UserError(
            f"data.max_tokens: {max_tokens} leaves no room for a text: what stands around it has "
            f"{max_tokens - room} tokens"
        )
    kept = iter(longest_first(sizes[0], sizes[1], room) if len(sizes) == 2 else (room,))
    cut = []
    for piece in pieces:
        size = next(kept) if piece.is_text else len(piece.ids)
        cut.append(Piece(piece.ids[:size], piece.types[:size], piece.is_text, piece.is_mask))
    return cut


def _place(pieces: Sequence[Piece]) -> int:
    """Where the mask is; without one, the last token."""
    ends = np.cumsum([len(piece.ids) for piece in pieces])
    return int(next((end for piece, end in zip(pieces, ends, strict=True) if piece.is_mask), ends[-1])) - 1
