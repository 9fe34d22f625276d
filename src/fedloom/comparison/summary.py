"""compare.json: everything that a comparison has come to so far, for pages, tables and other programs.

`format` 1. A `score` (also `difference`, `seconds`, `bytes`) is {mean, low, high, values}: over seeds, with its 95 %
interval (`fedloom.statistics`); `values` has one entry for each seed, null where the run has failed or is to come.
`docs/compare.md` says what each key holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedloom.comparison.cells import Cell
from fedloom.comparison.finished import BASE, read_run, start_of
from fedloom.comparison.folder import Unit
from fedloom.comparison.halving import total_rounds
from fedloom.comparison.intervals import differences, summarize
from fedloom.comparison.plan import Arguments, Plan, Subject
from fedloom.comparison.tuning import Tuning
from fedloom.recipe import recipe_yaml
from fedloom.report.events import strict_json
from fedloom.run_directory import write_json

SUMMARY, FORMAT = "compare.json", 1


class Summary:
    """Writes compare.json anew whenever a unit has ended; a run that has ended is read once.

    Args:
        folder: the comparison's.
        arguments: what was asked for.
        plan: what is run.
        units: its cells and tunings.
    """

    def __init__(self, folder: Path, arguments: Arguments, plan: Plan, units: Sequence[Unit]) -> None:
        self.path = folder / SUMMARY
        self._arguments = arguments
        self._plan = plan
        self._cells = [unit for unit in units if isinstance(unit, Cell)]
        self._tunings = {unit.subject.label: unit for unit in units if isinstance(unit, Tuning)}
        self._runs: dict[str, dict[str, Any]] = {}
        self._head: dict[str, Any] = {}

    def write(self) -> dict[str, Any]:
        """Write the file.

        Returns:
            What it holds.
        """
        done = [cell for cell in self._cells if cell.done]
        for cell in done:
            if cell.claim not in self._runs:
                self._runs[cell.claim] = read_run(cell)
                if cell.failure is None and not self._head:
                    self._head = _head(cell)
        values = strict_json(self._values(len(done)))
        write_json(self.path, values)
        return dict(values)

    def _values(self, done: int) -> dict[str, Any]:
        plan, measure = self._plan, self._head.get("measure", "loss")
        subjects = {subject.label: self._subject(subject, measure) for subject in plan.subjects}
        reference = subjects[plan.reference]["score"]["values"]
        for label, values in subjects.items():
            own = values["score"]["values"]
            values["difference"] = None if label == plan.reference else summarize(differences(own, reference))
        base = [run["scores"].get(BASE, {}).get(measure) for run in subjects[plan.reference]["runs"]]
        return {
            "format": FORMAT,
            "name": plan.recipe.name,
            "measure": measure,
            "test_set": self._head.get("test_set", "own"),
            "better": "higher" if measure == "accuracy" else "lower",
            "seeds": list(plan.seeds),
            "reference": plan.reference,
            "varied": list(self._arguments.vary),
            "tuned": self._tuned(),
            "finished": done == len(self._cells),
            "cells": {"done": done, "planned": len(self._cells)},
            "variants": [{**subjects[one.label], "baselines": dict(one.baselines)} for one in plan.variants],
            "baselines": [{**subjects[one.label], "arm": one.arm} for one in plan.baselines],
            "base": {"score": summarize(base)},
            "recipe": recipe_yaml(plan.recipe),
            "versions": self._head.get("versions", {}),
        }

    def _subject(self, subject: Subject, measure: str) -> dict[str, Any]:
        by_seed = {cell.seed: self._runs.get(cell.claim) for cell in self._cells if cell.subject.label == subject.label}
        runs = [by_seed[seed] for seed in self._plan.seeds]
        tuning = self._tunings.get(subject.label)
        return {
            "label": subject.label,
            "settings": subject.settings,
            "chosen": tuning.chosen.values if tuning is not None and tuning.done else None,
            "tuning": [] if tuning is None else tuning.trials,
            "runs": [run for run in runs if run is not None],
            "score": summarize([None if run is None else _score(run, subject.arm, measure) for run in runs]),
            "seconds": summarize([None if run is None else run["seconds"] for run in runs]),
            "bytes": summarize([None if run is None else run["bytes"] for run in runs]),
        }

    def _tuned(self) -> dict[str, Any] | None:
        plan = self._plan
        if plan.tuning_seed is None:
            return None
        trials = len(plan.variants[0].candidates)
        return {
            "keys": list(self._arguments.tune),
            "seed": plan.tuning_seed,
            "split": "validation",
            "trials_each": trials,
            "rounds_each": total_rounds(trials, plan.variants[0].recipe.federation.rounds),
        }


def _head(cell: Cell) -> dict[str, Any]:
    """What all scores are of, as a run that has ended shows it."""
    result, start = cell.result, start_of(cell)
    assert result is not None
    return {
        "measure": "accuracy" if "accuracy" in result else "loss",
        "test_set": "global" if "global" in result else "own",
        "versions": {"fedloom": start["fedloom"], **start["versions"]},
    }


def _score(run: dict[str, Any], arm: str, measure: str) -> float | None:
    score: float | None = run["scores"].get(arm, {}).get(measure)
    return score
