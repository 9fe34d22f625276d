"""What tuning tried and chose, and where a choice lies at the edge of what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedloom.report import units
from fedloom.report.comparison_record import Comparison, Entry
from fedloom.report.sections import Table


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The tuning of one variant or baseline.

    Args:
        style: its colour.
        name: what it is called.
        chosen: in words.
        edges: the keys whose chosen value is the smallest or largest that was tried.
        table: every trial.
    """

    style: str
    name: str
    chosen: str
    edges: list[str]
    table: Table


def tuning(comparison: Comparison) -> list[Tuned]:
    """The tuning of all variants and baselines.

    Args:
        comparison: what was compared.

    Returns:
        Those that tried something.
    """
    return [_tuned(one) for one in comparison.entries if one.tuning]


def tuning_note(comparison: Comparison) -> str:
    """How was tuned, in a sentence; empty where it wasn't."""
    tuned = comparison.content.get("tuned")
    if not tuned:
        return ""
    return (
        f"Chosen by the loss on the {tuned['split']} split with seed {tuned['seed']}, which no score above uses; "
        f"{tuned['trials_each']} trials and {tuned['rounds_each']} rounds for each."
    )


def at_the_edge(chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose chosen value is the smallest or largest of several numbers tried.

    Args:
        chosen: values by recipe key.
        tried: the same of each trial.

    Returns:
        Keys: a better value may lie beyond what was tried.
    """
    found = []
    for key, value in chosen.items():
        values = {one[key] for one in tried if key in one}
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
        if len(values) > 1 and numbers and value in (min(values), max(values)):
            found.append(key)
    return found


def _tuned(one: Entry) -> Tuned:
    tried = [dict(trial["values"]) for trial in one.tuning]
    chosen = one.chosen or {}
    keys = list(tried[0])
    rows = []
    for trial in one.tuning:
        loss = trial.get("loss")
        ended = "stopped early" if trial.get("halted") else "chosen" if trial["values"] == chosen else ""
        said = "diverged" if loss is None and not trial.get("halted") else units.loss_text(loss)
        cells = [*(str(trial["values"].get(key)) for key in keys[1:]), str(trial.get("rounds")), said, ended]
        rows.append(("", str(trial["values"].get(keys[0])), cells))
    return Tuned(
        style=one.style,
        name=one.label,
        chosen=", ".join(f"{key} = {value}" for key, value in chosen.items()) or "nothing chosen yet",
        edges=at_the_edge(chosen, tried),
        table=Table(
            groups=[], headings=[*keys[1:], "rounds", "validation loss", ""], rows=rows, notes=[], first=keys[0]
        ),
    )
