"""What is found in texts: published examples, agreement with the authors' programs, and what must always hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.suites.catalogue import all_tasks
from fedloom.suites.extraction.drop import exact_match_and_f1, normalised, spans_of
from fedloom.suites.extraction.labels import label_measures, label_of
from fedloom.suites.extraction.latex_value import same_value, value_of
from fedloom.suites.extraction.letters import letter_of
from fedloom.suites.extraction.mathematics import grade_mathematics, last_boxed
from fedloom.suites.extraction.mathematics import normalised as normalised_latex
from fedloom.suites.extraction.numbers import grade_number, last_number, strict_number
from fedloom.suites.extraction.numbers import value_of as number_of
from fedloom.suites.extraction.phrases import concluded
from fedloom.suites.items import Outcome
from fedloom.suites.sources import Place, items_of


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1"),
    [
        # Of the tests of DROP's own evaluation.
        (["25", "4"], ["4", "25"], 1.0, 1.0),
        (["ottawa", "montreal"], ["Ottawa"], 0.0, 0.5),
        (["The Carolina Panthers"], ["Carolina Panthers"], 1.0, 1.0),
        (["yardline 8"], ["8 yardlines"], 0.0, 0.5),
        (["10-yard"], ["10 yard"], 1.0, 1.0),
        (["10"], ["10.0"], 1.0, 1.0),
        (["17 yards"], ["18 yards"], 0.0, 0.0),
        (["nineteen"], ["19"], 0.0, 0.0),
        (["x b c y"], ["b c d z"], 0.0, 0.5),
    ],
)
def test_drop_s_measures(answer, gold, exact, f1):
    assert exact_match_and_f1(answer, gold) == (exact, f1)


def test_spans():
    assert spans_of("\nAnswer: 4 ; the  Bears.\nBecause") == ["4", "the  Bears"]
    assert spans_of(" ;; ") == []
    assert normalised("The 1,000-yard run.") == "1000.0 yard run"


@given(st.lists(st.text("ab 1-,.", min_size=1), min_size=1, max_size=4), st.randoms())
def test_f1_knows_no_order_and_is_one_where_all_is_right(spans, random):
    assert exact_match_and_f1(spans, spans) == (1.0, 1.0)
    other = random.sample(spans, len(spans))
    assert exact_match_and_f1(other, spans) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("5 + 5 = 10\n#### 10", "10", "10"),
        ("#### -1,000.50 dollars, or 3", "-1,000.50", "3"),
        ("So she has $18.", None, "$18."),
        ("none ... at all", None, None),
        ("####10", None, "10"),
    ],
)
def test_numbers(text, strict, flexible):
    assert strict_number(text) == strict
    assert last_number(text) == flexible


def test_numbers_are_compared_by_value():
    assert grade_number({"number": "1,000"}, "so $1000.00.").measures == {"strict": 0.0, "flexible": 1.0}
    assert grade_number({"number": "18"}, "#### 1.8").measures == {"strict": 0.0, "flexible": 0.0}
    assert [number_of(text) for text in ("1.2.3", None, "$", "1,234")] == [None, None, None, 1234]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("Not A. The answer is C, since the answer is not D... the answer is **E**", "E"),
        ("Answer: b", "B"),
        ("D) 150 m", "D"),
        ("D", "D"),
        ("It must be (A), or rather (C).", "C"),
        (r"\boxed{\text{B}}", "B"),
        ("A ship leaves", None),
        ("The answer is Z", None),
        ("", None),
    ],
)
def test_letters(text, letter):
    assert letter_of(text, "ABCDE") == letter


def test_conclusions():
    assert concluded("So the answer is (A).\nMore") == "(A)"
    assert concluded("The answer is True") == "True"
    assert concluded("The answer is .") is None
    assert concluded("It is True.") is None


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"first \boxed{1}, then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 5$ apples", "5"),
        (r"\boxed{\frac{1}{2}", None),
        ("5", None),
    ],
)
def test_boxes(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("one", "other", "same", "equivalent"),
    [
        # What the authors' normalisation is for.
        (r"\dfrac12", r"\frac{1}{2}", 1, 1),
        ("0.5", "1/2", 1, 1),
        ("x = 5", "5", 1, 1),
        (r"\sqrt3", r"\sqrt{3}", 1, 1),
        (r"50\%", "50", 1, 1),
        (r"90^\circ", "90", 1, 1),
        (r"12\text{ cm}", "12", 1, 1),
        (r"\left( 3, 4 \right)", "(3,4)", 1, 1),
        # What it is known to miss.
        (r"\frac{3\pi}{4}", r"\frac34\pi", 0, 1),
        ("8.5", r"\frac{17}{2}", 0, 1),
        (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}", 0, 1),
        ("1,000", "1000", 0, 1),
        (r"1\frac14", "1.25", 0, 1),
        # What is not the same.
        ("(0,1)", "[0,1]", 0, 0),
        ("(1,2)", "(2,1)", 0, 0),
        ("2", "-2", 0, 0),
        ("x+1", "1+x", 0, 0),
        ("0.333", r"\frac13", 0, 0),
    ],
)
def test_answers_of_math(one, other, same, equivalent):
    for found, gold in ((one, other), (other, one)):
        measures = grade_mathematics({"gold": gold}, rf"\boxed{{{found}}}").measures
        assert measures == {"accuracy": same, "equivalent": equivalent}


@given(st.text(r"0123456789.,+-*/^(){}[]\ "), st.text("fracsqtpiboxed{}\\ 12"))
def test_whatever_a_model_writes_is_read_without_an_error(one, other):
    for text in (one, other, "\\frac" + one, "\\sqrt" * 2000 + other, "(" * 5000):
        normalised_latex(text)
        last_boxed("\\boxed{" + text)
        assert value_of(text) is None or same_value(text, text)


def test_values():
    assert value_of(r"-2^{3}\cdot\frac{1}{4}") == [-2.0]
    assert value_of(r"2(3+4)/7") == [2.0]
    assert value_of(r"\sqrt[3]{27}") == [3.0]
    assert value_of("9^{9^9}") is None
    assert value_of(r"\frac{1}{0}") is None
    assert value_of("3x") is None


def _theirs(task: str):
    """The authors' functions as lm-evaluation-harness has them."""
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("lm_eval is not installed")
    pytest.importorskip("datasets")
    spec = importlib.util.spec_from_file_location(task, Path(package.origin).parent / "tasks" / task / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drop_agrees_with_the_authors(shared):
    theirs = _theirs("drop")
    golds = [item.fields["golds"][0] for item in items_of(all_tasks()["drop"], Place(shared / "data"))]
    for gold, other in zip(golds, [*golds[1:], golds[0]], strict=True):
        for answer in (other, other + gold, [" ".join(gold)]):
            assert exact_match_and_f1(answer, gold) == theirs.get_metrics(answer, gold)


@pytest.mark.filterwarnings("ignore:.*invalid escape sequence")
def test_math_is_normalised_as_by_the_authors(shared):
    theirs = _theirs("hendrycks_math")
    for item in items_of(all_tasks()["math"], Place(shared / "data")):
        assert normalised_latex(item.fields["gold"]) == theirs.strip_string(item.fields["gold"])


def test_labels():
    labels = ["negative", "neutral", "positive"]
    assert label_of("The answer: POSITIVE, not negative", labels) == "positive"
    assert label_of("positively", labels) is None
    assert label_of("no idea", labels) is None


def test_f1_of_labels_is_scikit_learn_s(tmp_path):
    metrics = pytest.importorskip("sklearn.metrics")
    draws = np.random.default_rng(0)
    gold = draws.choice(["negative", "neutral", "positive"], 200, p=[0.2, 0.5, 0.3]).tolist()
    answers = draws.choice(["negative", "neutral", "positive", "", "other"], 200).tolist()
    outcomes = [
        Outcome(str(place), None, {}, (), {"gold": one, "answer": other or None})
        for place, (one, other) in enumerate(zip(gold, answers, strict=True))
    ]
    found = label_measures(outcomes)
    for average in ("macro", "weighted"):
        expected = metrics.f1_score(gold, answers, labels=sorted(set(gold)), average=average)
        assert found[f"f1_{average}"] == pytest.approx(expected)
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(gold, answers, average="micro"))
