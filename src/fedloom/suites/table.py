"""The table that an evaluation ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from fedloom.report.units import MISSING

# Of a task whose score is a judge's, evaluated without one.
NOT_JUDGED = "not judged"


def results_table(entries: Mapping[str, Any]) -> Table:
    """Every task: the base's score, the adapter's, and the difference, each with its standard error.

    Args:
        entries: as in `evaluation.json`.

    Returns:
        A table to print with rich.
    """
    table = Table(caption="mean ± standard error; that of differences is of pairs", caption_justify="left")
    with_base = any("base" in entry for entry in entries.values())
    table.add_column("task", no_wrap=True)
    table.add_column("measure")
    for heading in ("n", *(["base"] if with_base else []), "adapter", *(["difference"] if with_base else [])):
        table.add_column(heading, justify="right")
    for name, entry in entries.items():
        scores = [_text(entry["adapter"])]
        if with_base:
            scores = [_text(entry.get("base")), *scores, _text(entry.get("difference"), "+")]
        table.add_row(name, entry["measure"].replace("_", " "), str(entry["adapter"]["n"]), *scores)
        for flag, count in entry["adapter"].get("flags", {}).items():
            table.add_row("", f"  {flag}", str(count), *[""] * len(scores), style="dim")
        if comparison := entry.get("comparison"):
            table.add_row("", "  wins of the adapter", f"{comparison['n']:.0f}", *_wins(comparison, len(scores)))
    return table


def _text(result: Mapping[str, Any] | None, sign: str = "") -> str:
    if not result:
        return MISSING
    if result["score"] is None:
        return NOT_JUDGED
    error = result["standard_error"]
    return f"{result['score']:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def _wins(comparison: Mapping[str, Any], columns: int) -> list[str]:
    """The rate of wins in the adapter's column, which is the one but the last of three."""
    rate = comparison.get("win_rate")
    return ["", MISSING if rate is None else f"{rate:.3f}", *[""] * (columns - 2)]
