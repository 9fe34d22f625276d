"""A rule of federation.stop that could never end a run is refused with the reason."""

from pathlib import Path

import pytest

from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["{}"], ["federation.stop: needs one of seconds, bytes, tokens, target, patience"]),
        (["{megabytes: 3}"], ["federation.stop.megabytes: unknown key", "seconds, bytes, tokens"]),
        (["{byte: 3}"], ["federation.stop.byte: unknown key", "mean 'bytes'"]),
        (["{bytes: 1.5}"], ["federation.stop.bytes: "]),
        (["{tokens: 0}"], ["federation.stop.tokens: 0 is not a number from 1 up"]),
        (["{seconds: 0}"], ["federation.stop.seconds: 0 is not a number above 0"]),
        (["{target: 2.0}"], ["federation.stop.target: 2.0 is not a section with the keys measure, value"]),
        (["{target: {measure: los, value: 1}}"], ["federation.stop.target.measure: 'los'", "mean 'loss'"]),
        (["{patience: 1}"], ["federation.stop.patience has no effect without evaluation.every"]),
        (["{target: {measure: loss, value: 1}}"], ["federation.stop.target has no effect without evaluation.every"]),
        (
            ["{patience: 3}", "evaluation.every=1"],
            ["federation.stop.patience: 3 has no effect: 3 evaluations, one every 1 rounds", "federation.rounds, 3"],
        ),
        (
            ["{target: {measure: accuracy, value: 0.9}}", "evaluation.every=1"],
            ["federation.stop.target.measure: accuracy is not measured here: evaluation.exact_match is auto"],
        ),
        (
            ["{target: {measure: accuracy, value: 90}}", "evaluation.every=1", "evaluation.exact_match=true"],
            ["federation.stop.target: an accuracy is a share: 90 is not above 0 and at most 1"],
        ),
    ],
)
def test_stops(refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]) -> None:
    options = [option for text in (f"federation.stop={overrides[0]}", *overrides[1:]) for option in ("--set", text)]
    contains(refused_early(recipe(rows, **SMALL), *options), *parts)


def test_who_shortens_a_run_need_not_know_what_waits_for_its_evaluations(rows: Path) -> None:
    from fedloom.recipe import load_recipe

    values = recipe(rows, federation={"stop": {"patience": 1, "tokens": 5}}, evaluation={"every": 2})
    assert load_recipe(values).federation.stop.patience == 1
    shortened = load_recipe(values, ["federation.rounds=1"])
    assert shortened.federation.stop.model_dump(exclude_none=True) == {"tokens": 5}
