"""What a grader is: a pure function from an item's fields and a text to measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedloom.suites.items import Outcome

UNPARSABLE = "unparsable"


@dataclass(frozen=True)
class Graded:
    """What a text is worth.

    Args:
        answer: what was found in it, a JSON value; None where nothing was: it counts as wrong and as unparsable.
        gold: what is right, a JSON value, kept beside it.
        measures: by name.
    """

    answer: Any
    gold: Any
    measures: Mapping[str, float]


def no_summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of graders whose measures are all means."""
    return {}


@dataclass(frozen=True)
class Grader:
    """One way of grading.

    Args:
        grade: given an item's fields and a text.
        measures: names of those that `grade` gives.
        summary: those of a whole task that are no means over items; outcomes hold answer and gold in their output.
        summaries: their names.
        packages: of the extra "suites" that it needs.
    """

    grade: Callable[[Mapping[str, Any], str], Graded]
    measures: tuple[str, ...]
    summary: Callable[[Sequence[Outcome]], dict[str, float]] = no_summary
    summaries: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
