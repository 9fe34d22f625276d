"""Answers that are one of lettered options, as in AQuA (arXiv 1705.04146)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedloom.suites.extraction.grader import Graded

# In the order in which they are tried; of one that fits several times, the last counts.
_PATTERNS = (
    re.compile(r"answer(?: is|:)?:?\s*(?:option\s*)?\**\(?([A-Z])\b", re.IGNORECASE),
    re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Z])\b"),
    re.compile(r"\A\W*([A-Z])\s*(?:[).:]|\Z)"),
    re.compile(r"\(([A-Z])\)"),
)


def letter_of(text: str, letters: str) -> str | None:
    """The option that an answer settles on.

    Args:
        text: an answer.
        letters: the options', such as ABCDE.

    Returns:
        The letter of the last "answer is X", or else in a box, at the beginning, or in parentheses; None without any.
    """
    for pattern in _PATTERNS:
        found: list[str] = [letter.upper() for letter in pattern.findall(text) if letter.upper() in letters]
        if found:
            return found[-1]
    return None


def grade_letter(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare the option chosen.

    Args:
        fields: letters, those of all options as one text, and gold, the right one.
        text: an answer.

    Returns:
        accuracy.
    """
    found = letter_of(text, fields["letters"])
    return Graded(found, fields["gold"], {"accuracy": float(found == fields["gold"])})
