from __future__ import annotations

from typing import Any

import pytest

from fedloom.report.summary import summary_sentence


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (
            {"local": {"accuracy": 0.4}, "federated": {"accuracy": 0.631}},
            "Federated training beats the average client alone by 23.1 points of accuracy: 63.1 % against 40.0 %.",
        ),
        (
            {"local": {"accuracy": 0.5}, "federated": {"accuracy": 0.49}, "centralized": {"accuracy": 0.7}},
            "Federated training falls short of the average client alone by 1.0 point of accuracy: "
            "49.0 % against 50.0 %; training on everybody's data in one place reaches 70.0 %.",
        ),
        (
            {"base": {"loss": 2.0}, "federated": {"loss": 1.5}},
            "Federated training has a test loss 25.0 % below that of the base model: 1.500 against 2.000.",
        ),
        (
            {"local": {"loss": 1.0}, "federated": {"loss": 1.0}},
            "Federated training is level with the average client alone: 1.000 against 1.000.",
        ),
        ({"federated": {"accuracy": 0.5}}, "Federated training reaches an accuracy of 50.0 %."),
        ({"base": {"loss": 2.0}}, "The federated adapter has not been evaluated yet."),
    ],
)
def test_sentence(results: dict[str, Any], expected: str) -> None:
    assert summary_sentence(results) == expected


def test_a_base_model_with_a_random_head_is_called_so() -> None:
    results = {"base": {"accuracy": 0.5}, "federated": {"accuracy": 0.75}}
    said = (
        "Federated training beats the base model with a random head by 25.0 points of accuracy: 75.0 % against 50.0 %."
    )
    assert summary_sentence(results, fresh_head=True) == said


@pytest.mark.parametrize(("apart", "said"), [(0.08, True), (0.001, False)])
def test_a_difference_within_its_interval_is_called_so(apart: float, said: bool) -> None:
    """Paired by seed: that seeds differ among themselves, here by 20 points, says nothing against a difference."""
    runs = [
        {"local": {"accuracy": 0.4 + seed}, "federated": {"accuracy": 0.45 + seed + around}}
        for seed, around in ((0.0, -apart), (0.1, 0.0), (0.2, apart))
    ]
    results = {"local": {"accuracy": 0.5}, "federated": {"accuracy": 0.55}}
    assert ("within the 95 % interval over 3 seeds" in summary_sentence(results, runs)) == said
