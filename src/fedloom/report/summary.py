"""One sentence that says in words what a run showed, without claiming more than the numbers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedloom.report.results import Result, score
from fedloom.report.units import accuracy_text, loss_text
from fedloom.statistics import Interval, student_interval

SAME_ACCURACY = 0.0005
SAME_LOSS = 0.0005
SAME_SHARE = 0.0005  # less would be written as 0.0 %


def summary_sentence(
    results: Mapping[str, Result], runs: Sequence[Mapping[str, Result]] = (), fresh_head: bool = False
) -> str:
    """Compare federated training with the average client alone and with pooled data.

    Args:
        results: the results by arm.
        runs: the results of every seed by arm, where they are means over several.
        fresh_head: whether the base model's classification head is random.

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
        base = "the base model with a random head" if fresh_head else "the base model"
        called = "the average client alone" if rival == "local" else base
        said = _comparison(measure, federated, other, called)
        said += f": {text(federated)} against {text(other)}"
        difference = _paired(runs, rival, measure)
        if difference is not None and difference.holds_zero:
            said += f", a difference within the 95 % interval over {difference.count} seeds"
    pooled = reached.get("centralized")
    if pooled is not None:
        said += f"; training on everybody's data in one place reaches {text(pooled)}"
    if len(runs) > 1:
        said += f" (means over {len(runs)} seeds)"
    return said + "."


def _comparison(measure: str, federated: float, other: float, rival: str) -> str:
    if measure == "accuracy":
        points = 100 * abs(federated - other)
        if abs(federated - other) < SAME_ACCURACY:
            return f"Federated training is level with {rival}"
        unit = "point" if f"{points:.1f}" == "1.0" else "points"
        verb = "beats" if federated > other else "falls short of"
        return f"Federated training {verb} {rival} by {points:.1f} {unit} of accuracy"
    if abs(federated - other) < max(SAME_LOSS, SAME_SHARE * other):
        return f"Federated training is level with {rival}"
    size = f"{100 * abs(federated - other) / other:.1f} %" if other > 0 else f"{abs(federated - other):.3f}"
    side = "below" if federated < other else "above"
    return f"Federated training has a test loss {size} {side} that of {rival}"


def _paired(runs: Sequence[Mapping[str, Result]], rival: str, measure: str) -> Interval | None:
    """The difference to another arm, paired by seed: a seed that is hard for both says nothing about either."""
    pairs = [(_value(run.get("federated", {}), measure), _value(run.get(rival, {}), measure)) for run in runs]
    differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return student_interval(differences) if len(differences) > 1 else None


def _value(result: Result, measure: str) -> float | None:
    value: float | None = getattr(score(result), measure)
    return value


def _named(measure: str) -> str:
    return "an accuracy" if measure == "accuracy" else "a test loss"
