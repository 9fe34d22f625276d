"""What a few scores say: an interval for their mean over seeds, and how evenly they are shared by clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
QUANTILES = {
    "min": 0.0,
    "tenth": 0.1,
    "quarter": 0.25,
    "median": 0.5,
    "three_quarters": 0.75,
    "nine_tenths": 0.9,
    "max": 1.0,
}


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it; no interval (None) where there is one value only.

    Args:
        mean: of the values.
        low: where the interval begins.
        high: where it ends.
        count: how many values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def holds_zero(self) -> bool | None:
        """Whether zero is in the interval, None where there is no interval."""
        return None if self.low is None or self.high is None else self.low <= 0.0 <= self.high


def student_interval(values: Sequence[float]) -> Interval:
    """The 95 % interval of a mean by Student's t distribution: mean ± t(0.975, n - 1) s / sqrt(n).

    Args:
        values: independent repetitions, such as one score per seed; at least one.

    Returns:
        The mean and its interval.
    """
    # Not at the top: scipy takes a while to load, and only reports ask for intervals.
    from scipy.special import stdtrit

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, None, None, count)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / np.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def gini(values: ArrayLike) -> float | None:
    """The Gini coefficient: the mean difference of two values as a share of twice their mean.

    sum_ij |x_i - x_j| / (2 n^2 mean(x)): 0 where all values are equal, (n - 1) / n where one of n has everything. As a
    measure of how unevenly a federation's model serves its clients: arXiv:2507.12983.

    Args:
        values: [n] at least one, none of them negative.

    Returns:
        The coefficient; None where all values are zero, because nothing is shared out then.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    total, count = float(ordered.sum()), len(ordered)
    if total <= 0.0:
        return None
    # Of sorted values, sum_ij |x_i - x_j| = 2 sum_i (2i - n - 1) x_i.
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    # Rounding must not make equal values unequal in the wrong direction.
    return max(0.0, float(weights @ ordered) / (count * total))


def quantiles(values: ArrayLike) -> dict[str, float]:
    """How values spread.

    Args:
        values: [n] at least one.

    Returns:
        For each of `QUANTILES` the value that so many do not exceed; always one of the values.
    """
    found = np.quantile(np.asarray(values, dtype=np.float64), list(QUANTILES.values()), method="nearest")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def worst_decile(values: ArrayLike, higher_is_better: bool) -> float:
    """The mean over the tenth of the clients that fare worst, one at least (the "worst 10 %" of arXiv:1905.10497).

    Args:
        values: [n] at least one.
        higher_is_better: true of accuracies, false of losses.

    Returns:
        The mean of the worst ceil(n / 10) values.
    """
    worst_first = np.sort(np.asarray(values, dtype=np.float64))
    if not higher_is_better:
        worst_first = worst_first[::-1]
    return float(np.mean(worst_first[: -(-len(worst_first) // 10)]))
