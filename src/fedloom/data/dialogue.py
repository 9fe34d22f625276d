"""Dialogues that are one text, as those of HH-RLHF: taken apart by their turns, never by characters.

Two dialogues of a pair share their first turns, and often the first letters of their answers besides: cut where their
characters part, a prompt would hold half a word of both answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from fedloom.errors import UserError

_SPEAKERS: dict[str, Literal["user", "assistant"]] = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
_MARK = re.compile("(" + "|".join(map(re.escape, _SPEAKERS)) + ")")


class Turn(NamedTuple):
    """One turn of a dialogue.

    Args:
        mark: what it begins with.
        text: what stands between this mark and the next, white space included.
    """

    mark: str
    text: str


def turns_of(text: str, where: str) -> list[Turn]:
    """Take a dialogue apart.

    Args:
        text: turns, each of which begins with an empty line and then "Human:" or "Assistant:".
        where: origin and field, for the error message.

    Returns:
        Its turns, from which `joined` makes the same text, character for character; none of an empty text.

    Raises:
        UserError: where something stands before the first turn.
    """
    first, *parts = _MARK.split(text)
    if first:
        marks = " or ".join(map(repr, _SPEAKERS))
        raise UserError(
            f"{where} is no dialogue as in HH-RLHF: it begins with {first[:20]!r}, not with {marks}",
            hint="leave fields.dialogue out where fields hold plain text or lists of messages",
        )
    return [Turn(mark, said) for mark, said in zip(parts[::2], parts[1::2], strict=True)]


def joined(turns: Iterable[Turn]) -> str:
    """Put a dialogue together again.

    Args:
        turns: from `turns_of`.

    Returns:
        The text.
    """
    return "".join(turn.mark + turn.text for turn in turns)


def continued(prompt: str, answer: str) -> str:
    """Put an answer after the dialogue it answers, where files keep them apart.

    Args:
        prompt: a dialogue that ends with the mark of the answer's turn.
        answer: the answer, and whatever follows it.

    Returns:
        The dialogue, with one space before the answer where there is no white space.
    """
    apart = prompt[-1:].isspace() or answer[:1].isspace()
    return prompt + ("" if apart else " ") + answer


def spoken(turns: Iterable[Turn]) -> list[tuple[Literal["user", "assistant"], str]]:
    """Tell who says what.

    Args:
        turns: from `turns_of`.

    Returns:
        Role and words, without white space around them. Turns of one speaker in a row are one, an empty line between
        them, because chat templates want roles in turn.
    """
    found: list[tuple[Literal["user", "assistant"], str]] = []
    for turn in turns:
        role, words = _SPEAKERS[turn.mark], turn.text.strip()
        if found and found[-1][0] == role:
            words = "\n\n".join(part for part in (found.pop()[1], words) if part)
        found.append((role, words))
    return found
