"""The curriculum's arithmetic: how much of its data a client uses in a round, and which examples these are.

FibecFed (arXiv 2410.00131) orders a client's examples from easy to hard and lets their number grow with the rounds;
the formulas of the paces are our choice.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedloom.recipe.curriculum_schema import CurriculumConfig

# What rounding may add to a product that is a whole number.
SLACK = 1e-9


def share_used(pace: str, start: float, full_after: float, round_number: int, rounds: int) -> float:
    """The share of every client's batches that is used in a round.

    With u = min(1, t / (full_after * rounds)): linear start + (1 - start) u; sqrt(start^2 + (1 - start^2) u);
    exp start * (1 / start)^u.

    Args:
        pace: linear, sqrt or exp.
        start: the share in the first round, above 0 and at most 1.
        full_after: the share of the rounds after which everything is used, above 0 and at most 1.
        round_number: t, from 0.
        rounds: of the whole run.

    Returns:
        Above 0, exactly 1 from t = full_after * rounds on, never falling.
    """
    progress = round_number / (full_after * rounds)
    if progress >= 1 - SLACK:
        return 1.0
    if pace == "sqrt":
        return min(1.0, math.sqrt(start**2 + (1 - start**2) * progress))
    if pace == "exp":
        return min(1.0, start * math.pow(1 / start, progress))
    return min(1.0, start + (1 - start) * progress)


def planned_share(curriculum: CurriculumConfig | None, round_number: int, rounds: int) -> float:
    """The share of every client's batches in a round of a run.

    Args:
        curriculum: the recipe's; None: everything in every round.
        round_number: from 1.
        rounds: of the whole run.

    Returns:
        Above 0, at most 1.
    """
    if curriculum is None:
        return 1.0
    return share_used(curriculum.pace, curriculum.start, curriculum.full_after, round_number - 1, rounds)


def batches_used(pace: str, start: float, full_after: float, round_number: int, rounds: int, batches: int) -> int:
    """The number of a client's batches that are used in a round.

    Args:
        pace: see `share_used`.
        start: see `share_used`.
        full_after: see `share_used`.
        round_number: t, from 0.
        rounds: of the whole run.
        batches: of the client, at least 1.

    Returns:
        At least 1, at most `batches`.
    """
    return batches_of(share_used(pace, start, full_after, round_number, rounds), batches)


def batches_of(share: float, batches: int) -> int:
    """A share of some batches, in whole batches.

    Args:
        share: above 0, at most 1.
        batches: at least 1.

    Returns:
        At least 1, at most `batches`.
    """
    return min(batches, max(1, math.ceil(batches * share - SLACK)))


def easiest(difficulties: NDArray[np.float64], share: float, batch_size: int) -> NDArray[np.int64]:
    """The examples of the first batches, when batches are cut from the easiest example to the hardest.

    Args:
        difficulties: [examples], higher is harder; of equal ones the first example comes first.
        share: of the batches, above 0 and at most 1.
        batch_size: examples of a batch; the last batch may be smaller.

    Returns:
        int64, ascending: a set, in the examples' own order.
    """
    order = np.argsort(difficulties, kind="stable")
    batches = -(-len(order) // batch_size)
    return np.sort(order[: batches_of(share, batches) * batch_size]).astype(np.int64)
