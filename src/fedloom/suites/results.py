"""From outcomes to results: means, their standard errors, and differences between two subjects."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedloom.suites.items import Outcome
from fedloom.suites.kinds.base import Kind
from fedloom.suites.task import Task


def summarise(task: Task, kind: Kind, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The result of a task.

    Args:
        task: what was evaluated.
        kind: its kind.
        outcomes: of its items, one at least.

    Returns:
        score, the task's first measure, None where it needs a judge and there was none; standard_error of it, None
        where it is no mean or there is one item; n; measures; and, where there are any, categories and groups (score
        and n of each, measures where a task has several), and flags (how many items have each).
    """
    means = _means(outcomes)
    measures = {**means, **kind.summary(task, outcomes)}
    found: dict[str, Any] = {
        "score": measures.get(task.score),
        "standard_error": None if task.score not in means else _standard_error(_values(task, outcomes)),
        "n": len(outcomes),
        "measures": measures,
    }
    categories: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.category is not None:
            categories.setdefault(outcome.category, []).append(outcome)
    groups = {
        group: [outcome for name in names for outcome in categories.get(name, [])]
        for group, names in task.groups.items()
    }
    for name, parts in {"groups": groups, "categories": dict(sorted(categories.items()))}.items():
        if parts:
            found[name] = {part: _part(task, kind, some) for part, some in parts.items() if some}
    if flags := Counter(flag for outcome in outcomes for flag in outcome.flags):
        found["flags"] = dict(sorted(flags.items()))
    return found


def difference(task: Task, subject: Sequence[Outcome], baseline: Sequence[Outcome]) -> dict[str, Any]:
    """How much better a subject is than another on the same items.

    Args:
        task: what was evaluated.
        subject: its outcomes.
        baseline: the other's.

    Returns:
        score, the mean difference of the task's first measure, and its standard_error, of pairs: what makes items hard
        for both does not count, nor do items that one of both has no score for. Empty where the score is no mean over
        items.
    """
    before = {outcome.key: outcome.measures[task.score] for outcome in baseline if task.score in outcome.measures}
    gains = [
        outcome.measures[task.score] - before[outcome.key]
        for outcome in subject
        if task.score in outcome.measures and outcome.key in before
    ]
    if not gains:
        return {}
    return {"score": statistics.fmean(gains), "standard_error": _standard_error(gains)}


def _part(task: Task, kind: Kind, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    measures = {**_means(outcomes), **kind.summary(task, outcomes)}
    part = {"score": measures.get(task.score), "n": len(outcomes)}
    return {**part, "measures": measures} if len(task.measures) > 1 else part


def _means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The means of measures; one that some items lack is the mean over the others."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.measures)
    return {name: statistics.fmean(o.measures[name] for o in outcomes if name in o.measures) for name in names}


def _values(task: Task, outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.measures[task.score] for outcome in outcomes if task.score in outcome.measures]


def _standard_error(values: Sequence[float]) -> float | None:
    """The sample standard deviation over the root of how many there are."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
