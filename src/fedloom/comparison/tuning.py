"""Choosing a variant's values by successive halving on validation data, with a seed that no reported run has."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fedloom.comparison.halving import best, rungs
from fedloom.comparison.plan import Candidate, Subject
from fedloom.comparison.workshop import Workshop
from fedloom.errors import Diverged, UserError
from fedloom.recipe import Recipe
from fedloom.run_directory import write_json
from fedloom.runs import carry_out_one

TUNING = "tuning"


@dataclass(frozen=True)
class Tuning:
    """The trials of one variant or baseline: runs with one of the values each, which halving stops and lets go on.

    What a trial has come to is in a file before the next one begins; a killed tuning reads it, goes on, and chooses the
    same.

    Args:
        root: the comparison's folder.
        subject: with candidates.
        seed: of all trials.
    """

    root: Path
    subject: Subject
    seed: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.subject.label}, tuning"

    @property
    def claim(self) -> str:
        """Name of the file that says who is at work on it."""
        return f"{self.subject.folder}-tuning"

    @property
    def folder(self) -> Path:
        """Where trials run."""
        return self.root / TUNING / self.subject.folder

    @property
    def ready(self) -> bool:
        """Whether it can begin: always."""
        return True

    @property
    def done(self) -> bool:
        """Whether a value is chosen."""
        return self._read()["chosen"] is not None

    @property
    def chosen(self) -> Candidate:
        """What was chosen."""
        place: int = self._read()["chosen"]
        return self.subject.candidates[place]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Every trial so far: values, rounds, validation loss at the last of them (None: diverged), halted or not."""
        state = self._read()
        last = [_last(losses) for losses in state["losses"]]
        return [
            {
                "values": candidate.values,
                "rounds": rounds,
                "loss": loss,
                "halted": state["chosen"] is not None and rounds < max(other for other, _ in last),
            }
            for candidate, (rounds, loss) in zip(self.subject.candidates, last, strict=True)
        ]

    def recipe(self, trial: int) -> Recipe:
        """The recipe of a trial: tested on the validation split, after its last round only.

        Args:
            trial: its number.

        Returns:
            The recipe.
        """
        recipe = self.subject.candidates[trial].recipe
        changes = {
            "seed": self.seed,
            # Its budget is rounds.
            "federation": recipe.federation.model_copy(update={"stop": None}),
            "evaluation": recipe.evaluation.model_copy(update={"split": "validation", "every": None, "suites": None}),
            "baselines": [baseline for baseline in recipe.baselines if baseline.kind == self.subject.arm],
            "trackers": [],
        }
        return recipe.model_copy(update=changes)

    def carry_out(self, workshop: Workshop) -> None:
        """Train the trials rung by rung until one is chosen.

        Args:
            workshop: opens them.
        """
        state = self._read()
        self.folder.mkdir(parents=True, exist_ok=True)
        going = list(range(len(self.subject.candidates)))
        course = rungs(len(going), workshop.rounds(self.recipe(0), self.subject.arm))
        for place, (count, until) in enumerate(course):
            going = going if place == 0 else self._best(state, going, course[place - 1][1], count)
            for trial in going:
                if str(until) not in state["losses"][trial]:
                    state["losses"][trial][str(until)] = self._loss(workshop, trial, until)
                    write_json(self._file, state)
        (winner,) = self._best(state, going, course[-1][1], 1)
        if state["losses"][winner][str(course[-1][1])] is None:
            raise UserError(f"--tune: every value diverged in {self.subject.label}", hint="give lower values")
        write_json(self._file, {**state, "chosen": winner})
        self.complete()

    def complete(self) -> None:
        """Remove the trials' runs, whose results are in the file."""
        for run in self.folder.glob("trial-*"):
            shutil.rmtree(run)

    def _best(self, state: dict[str, Any], going: list[int], until: int, count: int) -> list[int]:
        losses = [state["losses"][trial][str(until)] for trial in going]
        return sorted(going[place] for place in best(losses, count))

    def _loss(self, workshop: Workshop, trial: int, until: int) -> float | None:
        """Validation loss of a trial after so many rounds in all, None where it has diverged."""
        folder, arm = self.folder / f"trial-{trial}", self.subject.arm
        opener = partial(workshop.open, arm=arm, until=until)
        try:
            metrics = carry_out_one(self.recipe(trial), folder, True, Console(quiet=True), opener)
        except Diverged:
            return None
        loss: float = {**metrics["baselines"], "federated": metrics.get("eval")}[arm]["loss"]
        return loss

    @property
    def _file(self) -> Path:
        return self.folder / "trials.json"

    def _read(self) -> dict[str, Any]:
        if not self._file.exists():
            return {"chosen": None, "losses": [{} for _ in self.subject.candidates]}
        state: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        return state


def _last(losses: dict[str, float | None]) -> tuple[int, float | None]:
    """Rounds trained, and the loss after them."""
    rounds = max(map(int, losses), default=0)
    return rounds, losses.get(str(rounds))
