"""A cell of the grid: one whole run of a variant, or of a baseline, with one seed, in a run directory of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedloom.comparison.plan import FEDERATED, Subject
from fedloom.comparison.tuning import Tuning
from fedloom.comparison.workshop import Workshop
from fedloom.errors import Diverged
from fedloom.report.html import REPORT, write_report
from fedloom.report.results import Result
from fedloom.run_directory import METRICS, write_json
from fedloom.runs import carry_out_one

CELLS, FAILED = "cells", "failed.json"


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Args:
        root: the comparison's folder.
        subject: the variant or the baseline.
        seed: of the run.
        tuning: chooses values for it first; None: its recipe has them.
    """

    root: Path
    subject: Subject
    seed: int
    tuning: Tuning | None

    @property
    def name(self) -> str:
        """For people and for the claim."""
        return f"{self.subject.label}, seed {self.seed}"

    @property
    def claim(self) -> str:
        """Name of the file that says who is at work on it."""
        return f"{self.subject.folder}-seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.root / CELLS / self.subject.folder / f"seed-{self.seed}"

    @property
    def ready(self) -> bool:
        """Whether it can begin."""
        return self.tuning is None or self.tuning.done

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return (self.folder / METRICS).exists() or (self.folder / FAILED).exists()

    @property
    def failure(self) -> str | None:
        """Why it has no result, where it has ended without one."""
        file = self.folder / FAILED
        if not file.exists():
            return None
        reason: str = json.loads(file.read_text(encoding="utf-8"))["reason"]
        return reason

    @property
    def metrics(self) -> dict[str, Any]:
        """What it has come to."""
        values: dict[str, Any] = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
        return values

    @property
    def result(self) -> Result | None:
        """What its arm has come to on test data, None where it has failed."""
        if self.failure is not None:
            return None
        metrics, arm = self.metrics, self.subject.arm
        result: Result = metrics["eval"] if arm == FEDERATED else metrics["baselines"][arm]
        return result

    def carry_out(self, workshop: Workshop) -> None:
        """Carry the run to its end, from its newest checkpoint if there is one; diverging is an end too.

        Args:
            workshop: opens it.
        """
        recipe = self.subject.recipe if self.tuning is None else self.tuning.chosen.recipe
        recipe = recipe.model_copy(update={"seed": self.seed})
        opener = partial(workshop.open, arm=self.subject.arm)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            carry_out_one(recipe, self.folder, True, Console(quiet=True), opener)
        except Diverged as error:
            write_json(self.folder / FAILED, {"reason": error.message})
        write_report(self.folder)

    def complete(self) -> None:
        """Write the report that a kill right after the last round has left out."""
        if not (self.folder / REPORT).exists():
            write_report(self.folder)
