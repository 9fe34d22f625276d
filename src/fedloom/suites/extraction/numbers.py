"""Answers that are numbers: GSM8K (arXiv 2110.14168) and SVAMP (arXiv 2103.07191)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from fedloom.suites.extraction.grader import Graded

# Of GSM8K's own evaluation: solutions end in "#### 42".
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
# Of lm-evaluation-harness's "flexible-extract", of which the last match counts.
_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def strict_number(text: str) -> str | None:
    """The number after the first "#### "."""
    found = _STRICT.search(text)
    return None if found is None else found.group(1)


def last_number(text: str) -> str | None:
    """The last number of a text."""
    found = [match for match in _NUMBER.findall(text) if any(character.isdigit() for character in match)]
    return found[-1] if found else None


def value_of(number: str | None) -> Decimal | None:
    """What a written number is worth: thousands are separated by commas, a full stop may end a sentence.

    Args:
        number: such as "$1,000.50"; None for none.

    Returns:
        Its value; None where it is none.
    """
    try:
        value = None if number is None else Decimal(number.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None
    return value if value is None or value.is_finite() else None


def grade_number(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare a number.

    Args:
        fields: number, the right one as text.
        text: an answer.

    Returns:
        strict: whether the number after "#### " is right; flexible: whether the last number is. Numbers are compared
        by value, so that 5.00 is 5 (the harness compares their characters).
    """
    gold = value_of(fields["number"])
    assert gold is not None
    strict, flexible = strict_number(text), last_number(text)
    measures = {"strict": float(value_of(strict) == gold), "flexible": float(value_of(flexible) == gold)}
    return Graded(flexible if strict is None else strict, fields["number"], measures)
