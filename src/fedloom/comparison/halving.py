"""Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): many values a little, the better half further.

Of n values all are trained for a first share of the rounds; the better half goes on to twice as many, and so on until
one is left. How much is spent follows from the numbers of values and rounds alone, never from losses: every variant has
the same budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def rungs(values: int, rounds: int) -> list[tuple[int, int]]:
    """The course of a tuning.

    Args:
        values: how many there are to choose from, at least 2.
        rounds: of a whole run.

    Returns:
        For each rung, how many values reach it and the round up to which they are trained: the last one compares two
        values after all rounds. Rungs that a short run has no room for are left out: more values go on to the next.
    """
    reached = []
    while values > 1:
        reached.append(values)
        values = math.ceil(values / 2)
    last = len(reached) - 1
    course = [(count, math.ceil(rounds / 2 ** (last - place))) for place, count in enumerate(reached)]
    # Of rungs that end at the same round the first one compares all that the others do.
    return [rung for place, rung in enumerate(course) if place == 0 or course[place - 1][1] < rung[1]]


def total_rounds(values: int, rounds: int) -> int:
    """Rounds that a tuning trains in all, over all its values.

    Args:
        values: how many there are to choose from.
        rounds: of a whole run.

    Returns:
        The sum; what goes on does not begin anew.
    """
    total = before = 0
    for count, until in rungs(values, rounds):
        total += count * (until - before)
        before = until
    return total


def best(losses: Sequence[float | None], count: int) -> list[int]:
    """The values that go on.

    Args:
        losses: validation loss of each value in nats; None: it diverged, or did not come this far.
        count: how many go on.

    Returns:
        Places of the lowest losses, the earlier one of equals first; diverged ones only where there are no others left.
    """
    return sorted(range(len(losses)), key=lambda place: (losses[place] is None, losses[place] or 0.0, place))[:count]
