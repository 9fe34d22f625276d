"""Benchmarks that a run was tested on while it trained (`evaluation.suites`): curves, and where they end."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.line_chart import line_chart
from fedloom.report.record import Curve, Record, Run, merge_seeds
from fedloom.report.sections import NAMES, Chart, Table, curve_table

# More charts are nobody's reading; the table has all tasks.
MOST_CHARTS = 6
TESTED = ("base", "start", "federated")
NOTE = "Score ± its standard error over examples"
SEEDS_NOTE = "Mean score over seeds ± the mean of its standard errors over examples"


@dataclass(frozen=True, kw_only=True)
class Suites:
    """What stands in the section."""

    charts: list[Chart]
    table: Table


def suites(record: Record) -> Suites | None:
    """The section on benchmarks.

    Args:
        record: the run.

    Returns:
        A table of all tasks, and curves where the federation was tested more than once; None without benchmarks.
    """
    last = [_last(run) for run in record.runs]
    tasks = {task: values for results in last for by_task in results.values() for task, values in by_task.items()}
    if not tasks:
        return None
    arms = [arm for arm in TESTED if any(arm in results for results in last)]
    rows = []
    for task, values in tasks.items():
        cells = [_mean_text([results[arm].get(task) for results in last if arm in results]) for arm in arms]
        rows.append(("", task, [values["measure"].replace("_", " "), units.count_text(values["n"]), *cells]))
    headings = ["measure", "examples", *(NAMES[arm] for arm in arms)]
    notes = [f"{SEEDS_NOTE if record.seeds else NOTE}, after the last round that was tested."]
    drawn = [(task, curve) for task in tasks if (curve := _curve(record, task)) is not None]
    charts = [_chart(task, curve, tasks[task]["measure"]) for task, curve in drawn[:MOST_CHARTS]]
    return Suites(charts=charts, table=Table(groups=[], headings=headings, rows=rows, notes=notes, first="task"))


def _chart(task: str, curve: Curve, measure: str) -> Chart:
    note = measure.replace("_", " ")
    svg = line_chart([curve], NAMES, f"{task}, {note}", _text, "{:g}".format)
    return Chart(title=task, note=note, svg=svg, wide=Markup(""), table=curve_table([curve], NAMES, _text))


def _curve(record: Record, task: str) -> Curve | None:
    """The federation's scores by round, from what training started from on; None where it was tested only once."""
    points = merge_seeds([_scores(run, task) for run in record.runs])
    return Curve(arm="federated", points=points) if len(points) > 2 else None


def _scores(run: Run, task: str) -> dict[int, float | None]:
    return {
        event["round"]: event["tasks"][task]["score"]
        for event in run.events
        if event["event"] == "suites" and task in event["tasks"]
    }


def _last(run: Run) -> dict[str, Mapping[str, Any]]:
    """By arm, what its last test says of each task."""
    return {event["arm"]: event["tasks"] for event in run.events if event["event"] == "suites"}


def _mean_text(values: list[Mapping[str, Any] | None]) -> str:
    # A task that needs a judge has no score without one.
    known = [value for value in values if value is not None and value["score"] is not None]
    if not known:
        return units.MISSING
    errors = [value["standard_error"] for value in known if value["standard_error"] is not None]
    reach = f" ± {statistics.fmean(errors):.3f}" if errors else ""
    return _text(statistics.fmean(value["score"] for value in known)) + reach


def _text(value: float | None) -> str:
    return units.MISSING if value is None else f"{value:.3f}"
