"""Measures of classifications against numbers computed by hand, and how a summary folds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.evaluation.class_measures import confusion_counts, macro_f1, matthews_correlation
from fedloom.evaluation.score_summary import ScoreSummary
from fedloom.evaluation.scoring import Scores
from fedloom.report.progress import closing_table
from fedloom.report.results import average_results, columns, score


def counts(true: list[int], predicted: list[int]) -> np.ndarray:
    return confusion_counts(np.array(true), np.array(predicted))


def scores(true: list[int], predicted: list[int]) -> Scores:
    classes, found = np.array(true), np.array(predicted)
    ones = np.ones(len(true), dtype=np.int64)
    return Scores(ones.astype(float), ones, classes == found, found, classes)


@pytest.mark.parametrize(
    ("true", "predicted", "f1", "matthews"),
    [
        # Two classes: TP 2, FN 1, FP 1, TN 2. F1 of both 2/3; (2 * 2 - 1 * 1) / sqrt(3 * 3 * 3 * 3) = 1/3.
        ([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], 2 / 3, 1 / 3),
        # TP 6, FN 2, FP 1, TN 3: F1 12/15 and 6/9; (18 - 2) / sqrt(7 * 8 * 4 * 5).
        ([1] * 8 + [0] * 4, [1] * 6 + [0] * 2 + [1] + [0] * 3, (12 / 15 + 6 / 9) / 2, 16 / np.sqrt(1120)),
        # Three classes, rows (2, 0, 0), (1, 0, 1), (0, 0, 2) by truth: F1 4/5, 0, 4/5; 4 of 6 right, true (2, 2, 2),
        # predicted (3, 0, 3): (4 * 6 - 12) / sqrt((36 - 12) (36 - 18)).
        ([0, 0, 1, 1, 2, 2], [0, 0, 0, 2, 2, 2], (4 / 5 + 0 + 4 / 5) / 3, 12 / np.sqrt(24 * 18)),
        # All right, all wrong, one class only (right or wrong).
        ([0, 1, 2], [0, 1, 2], 1.0, 1.0),
        ([0, 1], [1, 0], 0.0, -1.0),
        ([1, 1], [1, 1], 1.0, 0.0),
        ([0, 0, 1], [0, 0, 0], (4 / 5 + 0) / 2, 0.0),
        # A class that neither occurs nor is predicted does not count.
        ([0, 3], [0, 3], 1.0, 1.0),
    ],
)
def test_known_answers(true: list[int], predicted: list[int], f1: float, matthews: float) -> None:
    assert macro_f1(counts(true, predicted)) == pytest.approx(f1, abs=1e-15)
    assert matthews_correlation(counts(true, predicted)) == pytest.approx(matthews, abs=1e-15)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60), st.permutations(range(5)))
def test_names_of_classes_do_not_matter(pairs: list[tuple[int, int]], renamed: list[int]) -> None:
    true, predicted = (list(one) for one in zip(*pairs, strict=True))
    one = counts(true, predicted)
    other = counts([renamed[c] for c in true], [renamed[c] for c in predicted])
    assert one.sum() == len(pairs)
    assert one.trace() == sum(a == b for a, b in pairs)
    assert macro_f1(one) == pytest.approx(macro_f1(other))
    assert matthews_correlation(one) == pytest.approx(matthews_correlation(other))
    # Numerator and denominator of the multi-class form, written out over pairs of examples.
    same = np.equal.outer(true, true), np.equal.outer(predicted, predicted), np.equal.outer(true, predicted)
    covariance = sum(a == b for a, b in pairs) * len(pairs) - same[2].sum()
    spread = [len(pairs) ** 2 - one.sum() for one in same[:2]]
    expected = covariance / np.sqrt(spread[0] * spread[1]) if min(spread) else 0.0
    assert matthews_correlation(one) == pytest.approx(expected)


def test_clients_count_alike_and_a_pooled_test_is_counted_exactly() -> None:
    first, second = ([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]), ([0, 1], [0, 1])
    own = ScoreSummary(exact_match=True)
    own.add(scores(*first))
    own.add(scores(*second))
    block = own.mean()
    assert block["accuracy"] == pytest.approx((4 / 6 + 1) / 2)
    assert block["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert block["matthews"] == pytest.approx((1 / 3 + 1) / 2)
    assert block["matthews_worst_decile"] == pytest.approx(1 / 3)
    assert block["macro_f1_gini"] == pytest.approx((1 / 3) / 2 / (2 / 3 + 1))
    assert "matthews_gini" not in block
    assert own.single(1) == {"loss": 1.0, "accuracy": 1.0, "macro_f1": 1.0, "matthews": 1.0, "examples": 2}
    assert own.quantiles()["matthews"]["min"] == pytest.approx(1 / 3)
    pooled = ScoreSummary(exact_match=True)
    pooled.add(scores(first[0] + second[0], first[1] + second[1]))
    # TP 3, FN 1, FP 1, TN 3.
    assert pooled.mean()["matthews"] == pytest.approx(8 / 16)
    assert pooled.mean()["examples"] == 8


def test_other_tasks_have_neither() -> None:
    summary = ScoreSummary(exact_match=True)
    summary.add(Scores(np.ones(2), np.ones(2, dtype=np.int64), np.array([True, False])))
    assert summary.mean() == {"loss": 1.0, "accuracy": 0.5, "examples": 2}


def test_reports_have_a_column_for_each() -> None:
    results = [
        {"loss": 0.5, "accuracy": 0.9, "macro_f1": 0.8, "matthews": m, "own": {"matthews": m}} for m in (0.6, 0.8)
    ]
    assert columns(results) == [(None, "accuracy"), (None, "macro_f1"), (None, "matthews"), (None, "loss")]
    mean = average_results(results)
    assert mean["matthews"] == mean["own"]["matthews"] == pytest.approx(0.7)
    assert score(mean).text("matthews") == "0.700 ± 0.141"
    assert score(mean).text("macro_f1") == "80.0 ± 0.0 %"


def test_the_terminal_shows_what_fits() -> None:
    block = {"loss": 0.5, "accuracy": 0.9, "macro_f1": 0.8, "matthews": 0.7}

    def headings(**blocks: dict[str, float]) -> list[str]:
        table = closing_table({"eval": {**block, **blocks}})
        return [str(column.header).replace("\n", " ") for column in table.columns[1:]]

    assert headings() == ["accuracy", "macro F1", "Matthews", "loss"]
    assert headings(**{"own": block, "global": block}) == [
        "own mixture accuracy", "own mixture macro F1", "global test accuracy", "global test macro F1",
    ]  # fmt: skip
