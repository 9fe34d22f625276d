"""Numbers over seeds as compare.json holds them, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from scipy import stats

CONFIDENCE = 0.95


def summarize(values: Sequence[float | None]) -> dict[str, Any]:
    """A mean with its 95 % interval by Student's t, mean ± t(0.975, n - 1) s / sqrt(n), over the seeds with a value.

    Args:
        values: one of each seed; None where a run has failed.

    Returns:
        mean, low and high, and the values; no interval of fewer than two.
    """
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "low": None, "high": None, "values": list(values)}
    mean, low, high = fmean(known), None, None
    if len(known) > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)) * stdev(known) / math.sqrt(len(known))
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "values": list(values)}


def differences(values: Sequence[float | None], reference: Sequence[float | None]) -> list[float | None]:
    """Differences to a reference, seed by seed.

    Args:
        values: one of each seed.
        reference: of the same seeds.

    Returns:
        Value minus reference; None where either is missing.
    """
    pairs = zip(values, reference, strict=True)
    return [None if value is None or other is None else value - other for value, other in pairs]
