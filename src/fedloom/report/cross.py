"""The matrix of a run with evaluation.cross: which adapter does how well on whose test."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as TerminalTable
from rich.text import Text

from fedloom.report import units
from fedloom.report.record import Record
from fedloom.report.results import ARMS, MEASURES, Result
from fedloom.report.sections import NAMES, Table

# More columns do not fit a terminal of 80 characters; the report has them all.
MOST_TERMINAL_COLUMNS = 8
# arm; client, None where everybody has the same adapter; on: client -> loss and accuracy on its test.
Row = dict[str, Any]


def cross_rows(results: Mapping[str, Result]) -> list[Row]:
    """One row for each adapter of a run: an arm's, or each client's where they have their own.

    Args:
        results: the results by arm; "cross" in those whose clients have adapters of their own.

    Returns:
        Rows in the order in which people read arms.
    """
    rows: list[Row] = []
    for arm in (arm for arm in ARMS if arm in results):
        result = results[arm]
        cross = result.get("cross", {}) if arm not in {"base", "start"} else {}
        # A personalised algorithm has both: what it shares, and what clients keep for themselves.
        if not cross or "personal" in result:
            rows.append({"arm": arm, "client": None, "on": _numbers(result["clients"])})
        rows += [{"arm": arm, "client": client, "on": _numbers(on)} for client, on in cross.items()]
    return rows


def mean_rows(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """The matrix over seeds: means and sample standard deviations, of adapters and tests that every seed has.

    Args:
        runs: the rows of each seed; more than one.

    Returns:
        Rows as of a single run, with loss_sd and accuracy_sd beside the means.
    """
    keyed = [{(row["arm"], row["client"]): row["on"] for row in rows} for rows in runs]
    rows: list[Row] = []
    for arm, client in (key for key in keyed[0] if all(key in other for other in keyed)):
        on = [rows_of[arm, client] for rows_of in keyed]
        tests = [test for test in on[0] if all(test in other for other in on)]
        rows.append({"arm": arm, "client": client, "on": {test: _mean([one[test] for one in on]) for test in tests}})
    return rows


def cross_table(record: Record) -> Table | None:
    """The matrix for the report.

    Args:
        record: the run.

    Returns:
        The table, None where nothing was evaluated crosswise.
    """
    rows: list[Row] = record.metrics.get("cross") or []
    if not rows:
        return None
    measure, tests = _shown(rows)
    cells = [(row["arm"], _title(row), [_text(row, test, measure) for test in tests]) for row in rows]
    notes = [f"Test {measure}: rows are adapters, columns the clients whose tests they are scored on."]
    return Table(groups=[], headings=tests, rows=cells, notes=notes)


def closing_cross_table(metrics: Mapping[str, Any]) -> TerminalTable | None:
    """The matrix for the terminal.

    Args:
        metrics: the content of `metrics.json`.

    Returns:
        A table to print with rich, None where nothing was evaluated crosswise or it would not fit a terminal.
    """
    rows: list[Row] = metrics.get("cross") or []
    measure, tests = _shown(rows)
    if not 0 < len(tests) <= MOST_TERMINAL_COLUMNS:
        return None
    table = TerminalTable(title=f"{measure} of each adapter (rows) on each client's test (columns)", min_width=48)
    table.add_column("")
    for test in tests:
        table.add_column(Text(test), justify="right")
    for row in rows:
        title = row["arm"] if row["client"] is None else f"{row['arm']}: {row['client']}"
        style = "bold" if row["arm"] == "federated" else None
        table.add_row(Text(title), *(_text(row, test, measure) for test in tests), style=style)
    return table


def _numbers(clients: Mapping[str, Result]) -> dict[str, dict[str, float]]:
    return {client: {key: one[key] for key in MEASURES if key in one} for client, one in clients.items()}


def _mean(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for measure in (measure for measure in MEASURES if all(measure in seed for seed in seeds)):
        values = [seed[measure] for seed in seeds]
        found |= {measure: statistics.fmean(values), f"{measure}_sd": statistics.stdev(values)}
    return found


def _shown(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """The measure that people look at first, and the tests."""
    tests = list(dict.fromkeys(test for row in rows for test in row["on"]))
    known = all("accuracy" in numbers for row in rows for numbers in row["on"].values())
    return "accuracy" if known else "loss", tests


def _title(row: Row) -> str:
    return NAMES[row["arm"]] if row["client"] is None else f"{NAMES[row['arm']]}: {row['client']}"


def _text(row: Row, test: str, measure: str) -> str:
    numbers = row["on"].get(test, {})
    text = units.accuracy_text if measure == "accuracy" else units.loss_text
    return text(numbers.get(measure), numbers.get(f"{measure}_sd"))
