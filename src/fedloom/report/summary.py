"""One sentence that says in words what a run showed, without claiming more than the numbers do."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedloom.report.results import Result, score
from fedloom.report.units import accuracy_text, loss_text

SAME_ACCURACY = 0.0005
SAME_LOSS = 0.0005


def summary_sentence(results: Mapping[str, Result], seeds: int = 0) -> str:
    """Compare federated training with the average client alone and with pooled data.

    Args:
        results: the results by arm.
        seeds: over how many seeds they are means, 0 for a single run.

    Returns:
        A sentence for people who have not seen the numbers.
    """
    if "federated" not in results:
        return "The federated adapter has not been evaluated yet."
    measure = "accuracy" if score(results["federated"]).accuracy is not None else "loss"
    reached = {arm: _value(result, measure) for arm, result in results.items()}
    federated = reached["federated"]
    if federated is None:
        return "The loss of the federated adapter is not a finite number: training has diverged."
    text = accuracy_text if measure == "accuracy" else loss_text
    rival = next((arm for arm in ("local", "base") if reached.get(arm) is not None), None)
    other = reached[rival] if rival is not None else None
    if rival is None or other is None:
        said = f"Federated training reaches {_named(measure)} of {text(federated)}"
    else:
        called = "the average client alone" if rival == "local" else "the base model"
        said = _comparison(measure, federated, other, called)
        said += f": {text(federated)} against {text(other)}"
        if seeds > 1 and _within_spread(results["federated"], results[rival], measure):
            said += ", a difference within the spread of the seeds"
    pooled = reached.get("centralized")
    if pooled is not None:
        said += f"; training on everybody's data in one place reaches {text(pooled)}"
    if seeds > 1:
        said += f" (means over {seeds} seeds)"
    return said + "."


def _comparison(measure: str, federated: float, other: float, rival: str) -> str:
    if measure == "accuracy":
        points = 100 * abs(federated - other)
        if abs(federated - other) < SAME_ACCURACY:
            return f"Federated training is level with {rival}"
        unit = "point" if f"{points:.1f}" == "1.0" else "points"
        verb = "beats" if federated > other else "falls short of"
        return f"Federated training {verb} {rival} by {points:.1f} {unit} of accuracy"
    if abs(federated - other) < SAME_LOSS:
        return f"Federated training is level with {rival}"
    size = f"{100 * abs(federated - other) / other:.1f} %" if other > 0 else f"{abs(federated - other):.3f}"
    side = "below" if federated < other else "above"
    return f"Federated training has a test loss {size} {side} that of {rival}"


def _within_spread(one: Result, other: Result, measure: str) -> bool:
    """Whether two means differ by less than their deviations taken together."""
    deviations = [getattr(score(result), f"{measure}_sd") or 0.0 for result in (one, other)]
    difference = (_value(one, measure) or 0.0) - (_value(other, measure) or 0.0)
    return abs(difference) < math.hypot(*deviations)


def _value(result: Result, measure: str) -> float | None:
    value: float | None = getattr(score(result), measure)
    return value


def _named(measure: str) -> str:
    return "an accuracy" if measure == "accuracy" else "a test loss"
