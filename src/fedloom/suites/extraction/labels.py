"""Answers that are one of a few labels, as in sentiment analysis of financial texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedloom.evaluation.class_measures import confusion_counts
from fedloom.suites.extraction.grader import Graded
from fedloom.suites.items import Outcome


def label_of(text: str, labels: Sequence[str]) -> str | None:
    """The label that an answer names first.

    Args:
        text: an answer.
        labels: in lower case; none begins with another.

    Returns:
        The one whose word comes first, in any case; None without any: nothing is taken for neutral.
    """
    found = re.search(rf"\b({'|'.join(map(re.escape, labels))})\b", text.lower())
    return None if found is None else found.group(1)


def grade_label(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare a label.

    Args:
        fields: labels, all there are, and gold, the right one.
        text: an answer.

    Returns:
        accuracy.
    """
    found = label_of(text, fields["labels"])
    return Graded(found, fields["gold"], {"accuracy": float(found == fields["gold"])})


def label_measures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """F1 over the labels that are right for some item, as scikit-learn averages it.

    An answer without a label is one that is missed: in f1_micro, which is accuracy then, it counts as a label of its
    own that is never right.

    Args:
        outcomes: with answer and gold in their output.

    Returns:
        f1_macro, the mean over labels; f1_weighted, weighted by how often a label is right; f1_micro.
    """
    names = sorted({outcome.output["gold"] for outcome in outcomes})
    # Further columns: labels that are never right, and none.
    others = sorted({outcome.output["answer"] or "" for outcome in outcomes} - set(names))
    places = {name: place for place, name in enumerate([*names, *others])}
    gold = np.array([places[outcome.output["gold"]] for outcome in outcomes])
    answers = np.array([places[outcome.output["answer"] or ""] for outcome in outcomes])
    counts = confusion_counts(gold, answers)
    right, true = np.diag(counts)[: len(names)], counts.sum(axis=1)[: len(names)]
    f1 = 2 * right / (true + counts.sum(axis=0)[: len(names)])
    return {
        "f1_macro": float(f1.mean()),
        "f1_weighted": float((f1 * true).sum() / true.sum()),
        "f1_micro": float(right.sum() / len(outcomes)),
    }
