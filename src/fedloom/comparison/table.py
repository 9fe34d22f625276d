"""The table a comparison ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from fedloom.report.units import MISSING, bytes_text, score_text, seconds_text


def closing_table(comparison: Mapping[str, Any]) -> Table:
    """Every variant and baseline: its score, the difference to the reference, time and traffic.

    Args:
        comparison: the content of compare.json.

    Returns:
        A table to print with rich.
    """
    measure, test = comparison["measure"], comparison["test_set"]
    unit = ", %" if measure == "accuracy" else ""
    # Plain text: labels may hold square brackets.
    table = Table(title=Text(comparison["name"]), caption=_caption(comparison), caption_justify="left")
    table.add_column("", overflow="fold")
    table.add_column(f"{measure}{unit}\n{test} test", justify="right")
    table.add_column(Text(f"minus {comparison['reference']}"), justify="right")
    table.add_column("time", justify="right")
    table.add_column("traffic", justify="right")
    for place, entry in enumerate([*comparison["variants"], *comparison["baselines"]]):
        failed = [run["seed"] for run in entry["runs"] if run["failed"] is not None]
        chosen = "".join(f"\n{key.rsplit('.', 1)[-1]}: {value}" for key, value in (entry["chosen"] or {}).items())
        lost = f"\nfailed: seed {', '.join(map(str, failed))}" if failed else ""
        table.add_row(
            Text(entry["label"] + chosen + lost),
            _interval(entry["score"], measure),
            MISSING if entry["difference"] is None else _interval(entry["difference"], measure, signed=True),
            seconds_text(entry["seconds"]["mean"]),
            bytes_text(entry["bytes"]["mean"]) if entry["bytes"]["mean"] else MISSING,
            end_section=place == len(comparison["variants"]) - 1,
        )
    return table


def _interval(summary: Mapping[str, Any], measure: str, signed: bool = False) -> str:
    scale, digits = (100, 1) if measure == "accuracy" else (1, 3)
    sign = "+" if signed else ""
    if summary["mean"] is None:
        return MISSING
    mean = f"{scale * summary['mean']:{sign}.{digits}f}"
    if summary["high"] is None:
        return mean
    return f"{mean} ± {scale * (summary['high'] - summary['mean']):.{digits}f}"


def _caption(comparison: Mapping[str, Any]) -> str:
    seeds = len(comparison["seeds"])
    parts = [f"mean ± half of its 95 % interval, {seeds} seeds" if seeds > 1 else "one seed, so no intervals"]
    base = comparison["base"]["score"]["mean"]
    if base is not None:
        parts.append(f"untuned base {score_text(comparison['measure'], base)}")
    tuned = comparison["tuned"]
    if tuned is not None:
        parts.append(f"tuned: {tuned['trials_each']} trials, {tuned['rounds_each']} rounds for each variant")
    return " · ".join(parts)
