"""Reading results: the arms of an experiment, the test sets they were scored on, means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedloom.report.units import score_text

Result = Mapping[str, Any]
Column = tuple[str | None, str]  # test set (None: the top-level numbers) and measure

ARMS = ("base", "start", "local", "federated", "fine_tuned", "centralized")
TEST_SETS = {
    "own": "own mixture",
    "personal": "own mixture, personal adapters",
    "global": "global test",
    "unseen": "unseen clients",
}
MEASURES = ("accuracy", "macro_f1", "matthews", "loss")
# Of classification, beside its accuracy; where there is no room for all, those on the right go first.
CLASS_MEASURES = ("macro_f1", "matthews")
# How clients spread around a measure: averaged over seeds without a deviation of their own.
SPREADS = tuple(f"{measure}_{kind}" for measure in MEASURES for kind in ("spread", "worst_decile", "gini"))


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one arm reached on one test set; deviations only over several seeds."""

    loss: float | None = None
    loss_sd: float | None = None
    accuracy: float | None = None
    accuracy_sd: float | None = None
    macro_f1: float | None = None
    macro_f1_sd: float | None = None
    matthews: float | None = None
    matthews_sd: float | None = None

    def text(self, measure: str) -> str:
        """One measure as it is written, with its deviation if there is one."""
        return score_text(measure, getattr(self, measure), getattr(self, f"{measure}_sd"))


def score(result: Result, test_set: str | None = None) -> Score:
    """The score of a result on one test set.

    Args:
        result: the result of one arm.
        test_set: a key of `TEST_SETS`, or None for the top-level numbers.

    Returns:
        The score; its fields are None where the result says nothing.
    """
    block = result if test_set is None else result.get(test_set) or {}
    return Score(**{key: block.get(key) for measure in MEASURES for key in (measure, f"{measure}_sd")})


def arms(metrics: Mapping[str, Any]) -> dict[str, Result]:
    """The results by arm, in the order people read them.

    Args:
        metrics: the content of `metrics.json`.

    Returns:
        Those of `ARMS` that are present.
    """
    found: dict[str, Result] = {**(metrics.get("baselines") or {})}
    if metrics.get("eval"):
        found["federated"] = metrics["eval"]
    return {arm: found[arm] for arm in ARMS if found.get(arm)}


def scored_on(results: Iterable[Result]) -> list[str | None]:
    """The test sets worth a column each.

    Args:
        results: the results of all arms.

    Returns:
        Keys of `TEST_SETS`, or only None (the top-level numbers) where clients' own tests are all there is.
    """
    present = {key for result in results for key in TEST_SETS if result.get(key)}
    if present <= {"own"}:
        return [None]
    return [key for key in TEST_SETS if key in present]


def columns(results: Sequence[Result]) -> list[Column]:
    """The (test set, measure) pairs that at least one arm has a number for.

    Args:
        results: the results of all arms.

    Returns:
        Column keys in display order: as `MEASURES` within each test set.
    """
    return [
        (test_set, measure)
        for test_set in scored_on(results)
        for measure in MEASURES
        if any(getattr(score(result, test_set), measure) is not None for result in results)
    ]


def average_results(results: Sequence[Result]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds of everything that can be averaged.

    Args:
        results: one result per seed, of the same arm.

    Returns:
        loss, loss_sd and, where every seed has them, the same of other measures, and the same per test set; score and
        score_sd of benchmarks.
    """
    merged: dict[str, Any] = {}
    for measure in MEASURES:
        values = [result.get(measure) for result in results]
        known = [float(value) for value in values if value is not None]
        if known and len(known) == len(values):
            merged[measure] = statistics.fmean(known)
            merged[f"{measure}_sd"] = statistics.stdev(known) if len(known) > 1 else 0.0
    for spread in SPREADS:
        known = [float(result[spread]) for result in results if result.get(spread) is not None]
        if known and len(known) == len(results):
            merged[spread] = statistics.fmean(known)
    for test_set in TEST_SETS:
        blocks = [result.get(test_set) for result in results]
        present = [block for block in blocks if block]
        if present and len(present) == len(blocks):
            merged[test_set] = average_results(present)
    if results and all("suites" in result for result in results):
        merged["suites"] = {
            task: _average_scores([r["suites"][task] for r in results]) for task in results[0]["suites"]
        }
    return merged


def _average_scores(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A benchmark's score over seeds."""
    scores = [value["score"] for value in values]
    if None in scores:
        return {"measure": values[0]["measure"], "score": None}
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {"measure": values[0]["measure"], "score": statistics.fmean(scores), "score_sd": deviation}
