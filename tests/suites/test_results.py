"""Means, standard errors and differences of pairs, in numbers that can be checked by hand."""

import math

import pytest

from fedloom.report.results import average_results
from fedloom.suites.catalogue import all_tasks
from fedloom.suites.items import Outcome
from fedloom.suites.kinds.base import Options
from fedloom.suites.kinds.choice import ChoiceKind
from fedloom.suites.results import difference, summarise

TASK, KIND = all_tasks()["mmlu"], ChoiceKind(Options())
CATEGORIES = ("anatomy", "anatomy", "virology", "management")


def outcomes(*scores: float) -> list[Outcome]:
    return [
        Outcome(str(at), category, {"accuracy": score}, ("truncated",) if at == 2 else (), None)
        for at, (category, score) in enumerate(zip(CATEGORIES, scores, strict=True))
    ]


def test_a_result_is_its_means() -> None:
    result = summarise(TASK, KIND, outcomes(1.0, 0.0, 1.0, 1.0))
    assert (result["score"], result["n"], result["measures"]) == (0.75, 4, {"accuracy": 0.75})
    # The sample standard deviation is 1/2, over the root of four.
    assert result["standard_error"] == pytest.approx(0.25)
    assert {name: (part["score"], part["n"]) for name, part in result["categories"].items()} == {
        "anatomy": (0.5, 2),
        "management": (1.0, 1),
        "virology": (1.0, 1),
    }
    assert {name: (part["score"], part["n"]) for name, part in result["groups"].items()} == {
        "stem": (0.5, 2),
        "other": (1.0, 2),
    }
    assert result["flags"] == {"truncated": 1}
    assert summarise(TASK, KIND, outcomes(1.0, 0.0, 1.0, 1.0)[:1])["standard_error"] is None


def test_a_difference_is_of_pairs() -> None:
    # Gains 0, 1, 1 and 0, of mean 1/2 and sample variance 1/3, whatever both find hard.
    gain = difference(TASK, outcomes(0.0, 1.0, 1.0, 1.0), list(reversed(outcomes(0.0, 0.0, 0.0, 1.0))))
    assert gain == {"score": 0.5, "standard_error": pytest.approx(math.sqrt(1 / 3 / 4))}


def test_benchmarks_over_seeds_are_averaged() -> None:
    runs = [{"loss": 1.0, "suites": {"siqa": {"measure": "accuracy", "score": score}}} for score in (0.25, 0.75)]
    assert average_results(runs)["suites"] == {
        "siqa": {"measure": "accuracy", "score": 0.5, "score_sd": pytest.approx(math.sqrt(0.125))}
    }
    assert "suites" not in average_results([*runs, {"loss": 1.0}])
