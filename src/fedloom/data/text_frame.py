"""What stands around the texts of a classification: a tokenizer's own special tokens, or the words of a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedloom.data.tokenizing import encode_texts
from fedloom.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for a record's text where only the words around it matter.
_STAND_IN = "x"
# White space belongs to what follows it, as most tokenizers have it: " good" is one token.
_SLOT = re.compile(r"(\s*(?:\{text\}|\{pair\}|\{mask\}))")


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts around a text, or around and between the two of a pair.

    Args:
        pieces: before the first text, between texts, and after the last.
        piece_types: the token types of each piece.
        text_types: the token type of each text.
    """

    pieces: list[list[int]]
    piece_types: list[list[int]]
    text_types: list[int]


@dataclass(frozen=True)
class Pattern:
    """The words around texts, and where among them a model is asked for the label's word.

    Args:
        parts: words and the names {text}, {pair} and {mask}, in order, the names of texts with the white space before
            them; that before {mask} is the word's.
        mask: the token that stands for {mask}; None for causal models, whose next token is asked for.
        before_word: what stands before the word, with a stand-in for texts.
        gap: the white space between them.
    """

    parts: list[str]
    mask: int | None
    before_word: str
    gap: str


def read_frame(tokenizer: PreTrainedTokenizerBase, pairs: bool) -> Frame | None:
    """Find a tokenizer's special tokens by giving it texts.

    Args:
        tokenizer: of the base model.
        pairs: around and between two texts instead of around one.

    Returns:
        The frame; None where the tokenizer has no token of its own that separates two texts.
    """
    texts = ["a", "b"] if pairs else ["a"]
    whole = tokenizer(*texts, return_token_type_ids=True, return_attention_mask=False)
    ids = list(whole["input_ids"])
    # Some tokenizers compute types that their models don't take.
    types = list(whole["token_type_ids"]) if "token_type_ids" in tokenizer.model_input_names else [0] * len(ids)
    pieces, piece_types, text_types, start = [], [], [], 0
    for bare in encode_texts(tokenizer, texts):
        at = next(place for place in range(start, len(ids)) if ids[place : place + len(bare)] == bare)
        pieces.append(ids[start:at])
        piece_types.append(types[start:at])
        text_types.append(types[at])
        start = at + len(bare)
    if pairs and tokenizer.sep_token_id not in pieces[1]:
        return None
    return Frame([*pieces, ids[start:]], [*piece_types, types[start:]], text_types)


def read_pattern(pattern: str, tokenizer: PreTrainedTokenizerBase) -> Pattern:
    """Take a pattern apart.

    Args:
        pattern: the recipe's task.pattern, with {text} and {mask} once each.
        tokenizer: of the base model.

    Returns:
        The pattern's parts.

    Raises:
        UserError: where the tokenizer has no mask token and {mask} is not the end.
    """
    before, _, after = pattern.partition("{mask}")
    if tokenizer.mask_token_id is None and after:
        raise UserError(
            f"task.pattern: {pattern!r}: this tokenizer has no mask token, so the word is the text's next one and "
            "{mask} must be the end"
        )
    gap = before[len(before.rstrip()) :]
    parts = [part for part in _SLOT.split(before.rstrip() + "{mask}" + after) if part]
    before_word = before.rstrip().replace("{text}", _STAND_IN).replace("{pair}", _STAND_IN)
    return Pattern(parts, tokenizer.mask_token_id, before_word, gap)


def word_tokens(words: Sequence[str], pattern: Pattern, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Find the token of each label's word, as it is written at the pattern's mask.

    Args:
        words: the recipe's task.words.
        pattern: the words around it.
        tokenizer: of the base model.

    Returns:
        Token ids, one for each word.

    Raises:
        UserError: for a word that is no token, or the same as another word.
    """
    tokens: list[int] = []
    for place, word in enumerate(words):
        key = f"task.words.{place}: {word!r}"
        bare, whole = encode_texts(tokenizer, [pattern.before_word, f"{pattern.before_word}{pattern.gap}{word}"])
        added = whole[len(bare) :]
        if whole[: len(bare)] != bare or len(added) != 1:
            written = " ".join(tokenizer.convert_ids_to_tokens(added))
            raise UserError(
                f"{key} is not one token after {pattern.before_word + pattern.gap!r}: {written}",
                hint="choose a more frequent word",
            )
        if added[0] == tokenizer.unk_token_id:
            raise UserError(f"{key} is unknown to the tokenizer", hint="choose a more frequent word")
        if added[0] in tokens:
            other = words[tokens.index(added[0])]
            raise UserError(f"{key} is the same token as {other!r}: every class needs one of its own")
        tokens.append(added[0])
    return tokens
