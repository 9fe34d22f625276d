"""Writes the tables of docs/evaluation.md: the tasks, from their own files, and a row of results for each.

`--check` writes nothing and fails where the tasks are not up to date. With the name of an `evaluation.json` its entries
become rows of results; what other entries say stays (they are kept in benchmarks/results/evaluation_rows.json).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from fedloom.suites.catalogue import all_tasks
from fedloom.suites.task import SUITES, Task

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "evaluation.md"
ROWS = ROOT / "benchmarks" / "results" / "evaluation_rows.json"
KEPT = ("measure", "adapter", "base", "difference", "examples", "limit", "prompts_sha256")


def tasks_table() -> str:
    """What each task's file says, suite by suite."""
    blocks = []
    for suite in SUITES:
        tasks = [task for task in all_tasks().values() if task.suite == suite]
        if tasks:
            lines = [f"**{suite}**", "", "| task | from | asked | measures | deviations |", "|---|---|---|---|---|"]
            blocks.append("\n".join([*lines, *map(_task_row, tasks)]))
    return "\n\n".join(blocks)


def results_table() -> str:
    """A row for each measure of each task that has been run; standard errors and differences of the scores."""
    rows: dict[str, Any] = json.loads(ROWS.read_text(encoding="utf-8"))
    lines = ["| task | measure | examples | base | adapter | difference |", "|---|---|---|---|---|---|"]
    for name in all_tasks():
        if (entry := rows.get(name)) is None:
            continue
        count = f"{entry['adapter']['n']} of {entry['examples']}"
        scores = [_score(entry.get("base")), _score(entry["adapter"]), _score(entry.get("difference"), "+")]
        lines.append(f"| {' | '.join([f'`{name}`', entry['measure'].replace('_', ' '), count, *scores])} |")
        for measure in entry["adapter"]["measures"]:
            if measure != entry["measure"]:
                both = [f"{entry[subject]['measures'][measure]:.3f}" for subject in ("base", "adapter")]
                lines.append(f"| {' | '.join([f'`{name}`', measure.replace('_', ' '), count, *both, ''])} |")
    return "\n".join(lines)


def take_rows(path: Path) -> None:
    """Keep what an evaluation says of our tasks.

    Args:
        path: an `evaluation.json`.
    """
    rows = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    for name, entry in json.loads(path.read_text(encoding="utf-8"))["tasks"].items():
        if name in all_tasks():
            kept = {key: entry[key] for key in KEPT if key in entry}
            for subject in ("adapter", "base"):
                if subject in kept:
                    kept[subject] = {key: kept[subject][key] for key in ("score", "standard_error", "n", "measures")}
            rows[name] = kept
    ROWS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n", encoding="utf-8")


def _task_row(task: Task) -> str:
    files = ", ".join(f"`{name}`" for name in task.files)
    if task.hub:
        hub = task.hub[0]
        files += f"; hub: `{' '.join(part for part in (hub.path, hub.name, hub.split) if part)}`"
    elif task.given:
        files += " (yours)"
    measures = ", ".join(measure.replace("_", " ") for measure in task.measures)
    link = f"[`{task.name}`](../src/fedloom/suites/tasks/{task.name}.yaml)"
    cells = [f"{link}: {task.title} ({task.paper})", files, task.kind, measures, task.deviations.strip()]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _score(result: dict[str, Any] | None, sign: str = "") -> str:
    if not result or result["score"] is None:
        return "\N{EN DASH}"
    error = result["standard_error"]
    return f"{result['score']:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


TABLES = {"tasks": tasks_table, "results": results_table}


def main() -> None:
    """Write the tables, or check them."""
    for path in (argument for argument in sys.argv[1:] if argument != "--check"):
        take_rows(Path(path))
    before = text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: written by tools/list_tasks.py -->", f"<!-- {name}: end -->"
        parts = re.split(f"({re.escape(begin)}\n).*({re.escape(end)})", text, flags=re.DOTALL)
        if len(parts) != 4:
            raise SystemExit(f"{PAGE.name} has no place for the {name}")
        text = f"{parts[0]}{parts[1]}{table()}\n\n{parts[2]}{parts[3]}"
    if text != before and "--check" in sys.argv:
        raise SystemExit(f"{PAGE.name} is not up to date; run tools/list_tasks.py")
    if text != before:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
