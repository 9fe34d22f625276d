"""DROP's own measures (arXiv 1903.00161, section 5): exact match, and F1 of aligned bags of words."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from fedloom.suites.extraction.grader import Graded

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Of several spans in one answer; asked for in the prompt.
SEPARATOR = ";"


def normalised(span: str) -> str:
    """A span in lower case, without articles and punctuation, numbers written alike.

    Args:
        span: of an answer.

    Returns:
        Words between single spaces.
    """
    words = []
    for token in re.split(" |-", span.lower()):
        if not _is_number(token):
            token = token.translate(_PUNCTUATION)
        # Without punctuation, "1,000" is a number, too.
        token = str(float(token)) if _is_number(token) else token
        words += _ARTICLES.sub(" ", token).split()
    return " ".join(words)


def exact_match_and_f1(answer: Sequence[str], gold: Sequence[str]) -> tuple[float, float]:
    """Compare spans.

    Args:
        answer: spans.
        gold: the right ones.

    Returns:
        Whether they are the same in any order, and F1: spans are aligned one to one so that the sum of their F1 is
        largest, a pair whose numbers differ counts 0, and so does a span without a partner; rounded to two places.
    """
    spans, right = [normalised(span) for span in answer], [normalised(span) for span in gold]
    exact = float(set(spans) == set(right) and len(spans) == len(right))
    scores = np.array([[_bag_f1(set(one.split()), set(other.split())) for one in spans] for other in right])
    rows, columns = linear_sum_assignment(-scores)
    return exact, round(float(scores[rows, columns].sum()) / max(len(spans), len(right)), 2)


def spans_of(text: str) -> list[str]:
    """The spans of an answer.

    Args:
        text: an answer, its spans separated by semicolons.

    Returns:
        Those of its first line that is not empty, without "Answer:" and a full stop; empty where there are none.
    """
    line = next((line.strip() for line in text.split("\n") if line.strip()), "")
    line = re.sub(r"\A(?:the )?answer(?: is|:)\s*", "", line, flags=re.IGNORECASE).strip().removesuffix(".")
    return [span.strip() for span in line.split(SEPARATOR) if span.strip()]


def grade_drop(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare spans, numbers or dates with each of the right answers; the best counts.

    Args:
        fields: golds, a list of answers, each a list of spans.
        text: an answer.

    Returns:
        f1 and exact_match.
    """
    spans = spans_of(text)
    found = [exact_match_and_f1(spans, gold) for gold in fields["golds"]] if spans else [(0.0, 0.0)]
    measures = {"f1": max(f1 for _, f1 in found), "exact_match": max(exact for exact, _ in found)}
    return Graded(spans or None, fields["golds"], measures)


def _bag_f1(answer: set[str], gold: set[str]) -> float:
    numbers = {word for word in gold if _is_number(word)}
    if numbers and not numbers & answer:
        return 0.0
    shared = len(answer & gold)
    precision = shared / len(answer) if answer else 1.0
    recall = shared / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
