"""What a comparison showed, in words that claim no more than the intervals allow."""

from __future__ import annotations

from fedloom.report import units
from fedloom.report.comparison_record import Comparison, Entry, paired
from fedloom.statistics import Interval


def comparison_summary(comparison: Comparison) -> str:
    """The best variant, how far it is from the reference and from both baselines.

    Args:
        comparison: what was compared.

    Returns:
        One to three sentences.
    """
    ranked = comparison.ranked()
    if not ranked:
        return "No variant has been evaluated yet."
    best, reference = ranked[0], comparison.reference
    superlative = "highest" if comparison.content["better"] == "higher" else "lowest"
    assert best.score is not None
    text = _plain(comparison, best.score.mean)
    said = f"{best.label} has the {superlative} test {comparison.measure}, {text}"
    if len(ranked) > 1 and reference is not None and reference.score is not None:
        # Where the reference itself is the best, the runner-up shows how much that means.
        other = ranked[1] if best is reference else reference
        said += "; " + _apart(comparison, best, other)
    sentences = [said, *_against_baselines(comparison, best)]
    return ". ".join(sentences) + "."


def _apart(comparison: Comparison, best: Entry, other: Entry) -> str:
    difference = paired(best.score, other.score)
    if difference is None:
        return f"no seed has both it and {other.label}"
    if difference.low is None:
        return (
            f"{other.label} has {_plain(comparison, other.score.mean if other.score else None)}, "
            "and one seed does not tell whether that is chance"
        )
    over = f"95 % interval over {difference.count} seeds"
    if difference.holds_zero:
        return f"its difference to {other.label} is within the {over}"
    return f"{_size(comparison, difference)} better than {other.label} ({over}: {_range(comparison, difference)})"


def _against_baselines(comparison: Comparison, best: Entry) -> list[str]:
    said, within, count = [], [], 0
    for arm, name in (("local", "each client alone"), ("centralized", "pooled data")):
        baseline = comparison.baseline(best, arm)
        difference = paired(best.score, baseline.score) if baseline is not None else None
        if difference is None:
            continue
        if difference.holds_zero:
            within.append(name)
            count = difference.count
        else:
            side = "better" if comparison.gain(difference.mean) > 0 else "worse"
            said.append(f"{_size(comparison, difference)} {side} than {name}")
    sentences = [f"{best.label} is " + " and ".join(said)] if said else []
    if within:
        sentences.append(f"Its difference to {' and to '.join(within)} is within the 95 % interval over {count} seeds")
    return sentences


def _plain(comparison: Comparison, value: float | None) -> str:
    return units.accuracy_text(value) if comparison.measure == "accuracy" else units.loss_text(value)


def _size(comparison: Comparison, difference: Interval) -> str:
    size = abs(difference.mean)
    return f"{100 * size:.1f} points" if comparison.measure == "accuracy" else f"{size:.3f}"


def _range(comparison: Comparison, difference: Interval) -> str:
    assert difference.low is not None
    assert difference.high is not None
    ends = sorted(abs(end) for end in (difference.low, difference.high))
    scale, digits = (100, 1) if comparison.measure == "accuracy" else (1, 3)
    return " to ".join(f"{scale * end:.{digits}f}" for end in ends)
