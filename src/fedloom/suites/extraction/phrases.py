"""Answers that end in "the answer is ...", as BIG-Bench Hard's solved examples do (arXiv 2210.09261)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedloom.suites.extraction.grader import Graded

_MARK = "the answer is "


def concluded(text: str) -> str | None:
    """What a text says the answer is.

    Args:
        text: an answer.

    Returns:
        What follows the first "the answer is " on its line, without a full stop at its end; None where there is none.
    """
    place = text.lower().find(_MARK)
    if place < 0:
        return None
    rest = text[place + len(_MARK) :].split("\n")[0].strip()
    return rest.removesuffix(".").strip() or None


def grade_phrase(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare what an answer concludes, character by character.

    Args:
        fields: gold, the right words.
        text: an answer.

    Returns:
        accuracy.
    """
    found = concluded(text)
    return Graded(found, fields["gold"], {"accuracy": float(found == fields["gold"].strip())})
