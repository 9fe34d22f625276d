"""Numbers as people read them: bytes, durations, counts and percentages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MISSING = "\N{EN DASH}"
MEASURE_NAMES = {
    "macro_f1": "macro F1",
    "matthews": "Matthews",
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
    "kl": "KL",
    "chosen_reward": "chosen reward",
    "rejected_reward": "rejected reward",
}


def bytes_text(count: float | None) -> str:
    """A number of bytes in decimal units, such as "12.3 MB"."""
    return MISSING if count is None else _scaled(count, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"))


def count_text(count: float | None) -> str:
    """A large count, such as "1.2 M" parameters; below ten thousand the exact number."""
    if count is None:
        return MISSING
    return f"{count:,.0f}" if abs(count) < 10_000 else _scaled(count, 1000.0, ("", "k", "M", "B", "T"))


def seconds_text(seconds: float | None) -> str:
    """A duration with the two largest units that matter, such as "4 min 10 s"."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def accuracy_text(value: float | None, deviation: float | None = None) -> str:
    """An accuracy between 0 and 1 in per cent, with its standard deviation over seeds if known."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f} %" if deviation is None else f"{100 * value:.1f} ± {100 * deviation:.1f} %"


def loss_text(value: float | None, deviation: float | None = None) -> str:
    """A loss, or another number, with three decimals, with its standard deviation over seeds if known."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def largest_unit(value: float, kind: str) -> tuple[float, str]:
    """The unit for an axis that reaches to a value.

    Args:
        value: the largest, in bytes or seconds.
        kind: bytes or seconds.

    Returns:
        How many bytes or seconds it is, and its name.
    """
    sizes = (
        ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
        if kind == "bytes"
        else ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
    )
    return next((one for one in sizes if value >= 2 * one[0]), sizes[-1])


def measure_name(measure: str) -> str:
    """What a measure is called in headings."""
    return MEASURE_NAMES.get(measure, measure)


def score_text(measure: str, value: float | None, deviation: float | None = None) -> str:
    """A score as its measure is written, with its standard deviation over seeds if known."""
    return accuracy_text(value, deviation) if _is_share(measure) else loss_text(value, deviation)


def range_text(measure: str, low: float | None, high: float | None, signed: bool = False) -> str:
    """From where to where an interval of scores, or with signs of differences, reaches; empty without one."""
    if low is None or high is None:
        return ""
    ends = [_bare(measure, end, signed) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def difference_text(measure: str, value: float | None) -> str:
    """A difference of scores with its sign, accuracies in percentage points."""
    if value is None:
        return MISSING
    return f"{_bare(measure, value, signed=True)} points" if _is_share(measure) else _bare(measure, value, True)


def layers_text(choice: Mapping[str, Any]) -> str:
    """The layers that clients share, such as "2 of 6: layers 3, 5, counted from 0"."""
    chosen = choice["chosen"]
    names = ", ".join(map(str, chosen))
    return f"{len(chosen)} of {len(choice['layers'])}: layer{'s' if len(chosen) > 1 else ''} {names}, counted from 0"


def stop_text(stop: Mapping[str, Any]) -> str:
    """Why the rounds ended early, such as "stopped after round 7: bytes 1.2 MB of 1.0 MB"."""
    rule, limit, reached = stop["rule"], stop["limit"], stop["reached"]
    text: Callable[[float | None], str]
    if rule == "patience":
        said = f"no loss below {loss_text(stop['best'])} in {reached} evaluations"
    elif rule == "target":
        measure = stop["measure"]
        said = f"{measure_name(measure)} {score_text(measure, reached)}, target {score_text(measure, limit)}"
    else:
        text = {"bytes": bytes_text, "seconds": seconds_text, "tokens": count_text}[rule]
        said = f"{rule} {text(reached)} of {text(limit)}"
    return f"stopped after round {stop['round']}: {said}"


def _is_share(measure: str) -> bool:
    return measure in ("accuracy", "macro_f1", "reward_accuracy")


def _bare(measure: str, value: float, signed: bool) -> str:
    scale, digits = (100, 1) if _is_share(measure) else (1, 3)
    return format(scale * value, f"{'+' if signed else ''}.{digits}f").replace("-", "\N{MINUS SIGN}")


def _scaled(count: float, step: float, units: tuple[str, ...]) -> str:
    size, index = float(count), 0
    while abs(size) >= step - 0.5 and index < len(units) - 1:
        size, index = size / step, index + 1
    digits = 0 if index == 0 or abs(size) >= 100 else 1
    return f"{size:.{digits}f} {units[index]}".rstrip()
