"""Judging what was answered: ratings and classes of one subject's answers, and which of two subjects answers better.

A step of its own after all answers are there. It writes nothing but the judge's replies, so it can be done again at any
time, by another judge too, and costs only what was never asked before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item, Outcome
from fedloom.suites.judge.grading import Standing, classification, comparisons, ratings, shares, standing_of
from fedloom.suites.judge.judge import Judge, Judgement, Told, Verdict
from fedloom.suites.kinds.dialogue import DialogueKind, DialogueTask, dialogue_of

_WORTH = {"win": 1.0, "tie": 0.5, "loss": 0.0}


def judgements_of(task: DialogueTask, item: Item, outcome: Outcome) -> list[Judgement]:
    """What a judge is asked about an item's answers.

    Args:
        task: says whether for a rating or for a class.
        item: what was asked.
        outcome: what was answered.

    Returns:
        A judgement for each verdict of the outcome.
    """
    dialogue = dialogue_of(task, item, outcome)
    return ratings(dialogue) if task.judged == "rating" else [classification(task.judged, dialogue)]


def judged(
    kind: DialogueKind,
    task: DialogueTask,
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    judge: Judge,
    told: Told = lambda done, total: None,
) -> list[Outcome]:
    """Grade answers by a judge's verdicts.

    Args:
        kind: grades.
        task: of these items.
        items: what was asked.
        outcomes: what was answered, item by item.
        judge: gives the verdicts.
        told: is given how many verdicts there are, of how many.

    Returns:
        The outcomes with the measures that need a judge; their outputs hold its verdicts and its words.

    Raises:
        UserError: where the judge is out of order.
    """
    asked = [judgements_of(task, item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
    found = iter(judge.verdicts([judgement for some in asked for judgement in some], told))
    graded = []
    for item, outcome, some in zip(items, outcomes, asked, strict=True):
        verdicts = [next(found) for _ in some]
        said = {"verdicts": [one.value for one in verdicts], "judge": [one.text for one in verdicts]}
        graded.append(kind.grade(task, item, {**outcome.output, **said}))
    return graded


def compared(
    task: DialogueTask,
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    others: Sequence[Outcome],
    judge: Judge,
    told: Told = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Have two subjects' answers compared, each pair in both orders.

    Args:
        task: of these items.
        items: what was asked.
        outcomes: of the subject whose wins are counted.
        others: of the other.
        judge: gives the verdicts.
        told: is given how many verdicts there are, of how many.

    Returns:
        For each item: key, category and turns, of which each has standing (win, tie, loss; None: unjudged) and the
        judge's words in both orders.

    Raises:
        UserError: where the judge is out of order.
    """
    asked = [
        comparisons(dialogue_of(task, item, outcome), dialogue_of(task, item, other))
        for item, outcome, other in zip(items, outcomes, others, strict=True)
    ]
    found = iter(judge.verdicts([judgement for some in asked for judgement in some], told))
    compared_items = []
    for item, some in zip(items, asked, strict=True):
        turns = [_turn(next(found), next(found)) for _ in range(len(some) // 2)]
        compared_items.append({"key": item.key, "category": item.category, "turns": turns})
    return compared_items


def comparison_summary(compared_items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often a subject wins.

    Args:
        compared_items: of `compared`.

    Returns:
        The shares of all turns (see `grading.shares`), the standard error of win_rate, over items, and the shares of
        each category where there are some.
    """
    found: dict[str, Any] = dict(shares(_standings(compared_items)))
    values = []
    for item in compared_items:
        worths = [_WORTH[standing] for standing in _standings([item]) if standing is not None]
        values += [statistics.fmean(worths)] if worths else []
    if len(values) > 1:
        found["standard_error"] = statistics.stdev(values) / math.sqrt(len(values))
    categories = sorted({item["category"] for item in compared_items if item["category"] is not None})
    if categories:
        found["categories"] = {
            name: shares(_standings([item for item in compared_items if item["category"] == name]))
            for name in categories
        }
    return found


def _turn(as_a: Verdict, as_b: Verdict) -> dict[str, Any]:
    return {"standing": standing_of(as_a.value, as_b.value), "judge": [as_a.text, as_b.text]}


def _standings(compared_items: Sequence[Mapping[str, Any]]) -> list[Standing | None]:
    return [turn["standing"] for item in compared_items for turn in item["turns"]]
