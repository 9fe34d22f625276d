"""Numbers over seeds as compare.json holds them, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedloom.statistics import student_interval


def summarize(values: Sequence[float | None]) -> dict[str, Any]:
    """A mean with its 95 % interval (`student_interval`), over the seeds that have a value.

    Args:
        values: one of each seed; None where a run has failed.

    Returns:
        mean, low and high, and the values; no interval of fewer than two.
    """
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "low": None, "high": None, "values": list(values)}
    interval = student_interval(known)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "values": list(values)}


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
