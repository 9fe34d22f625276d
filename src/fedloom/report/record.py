"""Reading a run directory back: one run or several seeds, finished or still going."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedloom.errors import UserError
from fedloom.report.events import Event, read_events
from fedloom.report.results import ARMS, Result, arms, average_results

Values = dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place of a curve: the mean over seeds, with the lowest and the highest seed."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One arm's curve over rounds."""

    arm: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run directory of one seed."""

    events: tuple[Event, ...]
    results: dict[str, Result]
    finished: bool

    @property
    def start(self) -> Event:
        """The `start` event, empty if the run has not come that far."""
        return next((event for event in self.events if event["event"] == "start"), {})

    def rounds(self, arm: str) -> dict[int, Event]:
        """The training rounds of one arm, by round; where a round was repeated, the last time counts."""
        kind = "round" if arm == "federated" else "baseline_round"
        return {
            event["round"]: event
            for event in self.events
            if event["event"] == kind and event.get("arm", "federated") == arm
        }

    def evaluations(self, arm: str) -> dict[int, Result]:
        """The evaluation results of one arm, by round."""
        return {
            event["round"]: event["result"]
            for event in self.events
            if event["event"] == "evaluation" and event["arm"] == arm
        }

    def total(self, field: str) -> float:
        """The sum of a field over the federated rounds."""
        return float(sum(event.get(field) or 0 for event in self.rounds("federated").values()))

    def simulated(self) -> dict[int, float]:
        """Simulated seconds that have passed after each federated round, 0 before the first; empty without a clock."""
        passed, found = 0.0, {0: 0.0}
        for at, event in sorted(self.rounds("federated").items()):
            if event.get("simulated_seconds") is None:
                return {}
            passed += event["simulated_seconds"]
            found[at] = passed
        return found if len(found) > 1 else {}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the report is about: the runs (one per seed) and what they reached."""

    name: str
    runs: tuple[Run, ...]
    seeds: tuple[str, ...]
    results: dict[str, Result]
    metrics: dict[str, Any]
    recipe: str
    finished: bool

    @property
    def start(self) -> Event:
        """The first `start` event of any seed, empty if no run has come that far."""
        return next((run.start for run in self.runs if run.start), {})

    @property
    def rounds_done(self) -> int:
        """The latest federated round of any seed."""
        return max((max(run.rounds("federated"), default=0) for run in self.runs), default=0)

    @property
    def rounds_planned(self) -> int | None:
        """How many federated rounds the recipe asks for, None where that cannot be read from it."""
        try:
            recipe = yaml.safe_load(self.recipe)
        except yaml.YAMLError:
            return None
        federation = recipe.get("federation") if isinstance(recipe, dict) else None
        rounds = federation.get("rounds") if isinstance(federation, dict) else None
        return rounds if isinstance(rounds, int) else None

    def mean(self, pick: Callable[[Run], float | None]) -> float | None:
        """The mean over runs of a number, None if no run has it."""
        values = [value for value in map(pick, self.runs) if value is not None]
        return statistics.fmean(values) if values else None

    def by_round(self, pick: Callable[[Event], float | None]) -> tuple[Point, ...]:
        """A number of every federated round, over seeds."""
        return merge_seeds([{at: pick(event) for at, event in run.rounds("federated").items()} for run in self.runs])

    def training_curves(self) -> list[Curve]:
        """The training loss by round of every arm that trained."""
        return self._curves(lambda run, arm: {at: event.get("loss") for at, event in run.rounds(arm).items()})

    def evaluation_curves(self, measure: str) -> list[Curve]:
        """The loss or the accuracy on the test set by round of every arm that was evaluated."""
        return self._curves(lambda run, arm: {at: result.get(measure) for at, result in run.evaluations(arm).items()})

    def _curves(self, pick: Callable[[Run, str], Mapping[int, float | None]]) -> list[Curve]:
        drawn = [Curve(arm=arm, points=merge_seeds([pick(run, arm) for run in self.runs])) for arm in ARMS]
        return [curve for curve in drawn if curve.points]


def read_record(run_dir: Path) -> Record:
    """Read a run directory, or a directory with one run per seed below it.

    Args:
        run_dir: the directory that `fedloom run` wrote, or is writing.

    Returns:
        The record.

    Raises:
        UserError: if there is neither an event log nor a metrics file.
    """
    metrics = _read_json(run_dir / "metrics.json")
    folders = sorted(run_dir.glob("seed-*/"), key=_natural)
    if metrics is None and not folders and not (run_dir / "events.jsonl").exists():
        raise UserError(f"{run_dir} is no run directory: it has neither events.jsonl nor metrics.json")
    several = bool(folders) and not (run_dir / "events.jsonl").exists()
    runs = tuple(_read_run(folder) for folder in folders) if several else (_read_run(run_dir),)
    recipe = next(
        (
            file.read_text(encoding="utf-8", errors="replace")
            for file in (folder / "recipe.yaml" for folder in (run_dir, *folders))
            if file.exists()
        ),
        "",
    )
    start = next((run.start for run in runs if run.start), {})
    return Record(
        name=str((metrics or {}).get("name") or start.get("name") or run_dir.resolve().name),
        runs=runs,
        seeds=tuple(folder.name.removeprefix("seed-") for folder in folders) if several else (),
        results=arms(metrics) if metrics is not None else _results_so_far(runs),
        metrics=metrics or {},
        recipe=recipe,
        finished=metrics is not None,
    )


def _read_run(folder: Path) -> Run:
    events = tuple(read_events(folder / "events.jsonl"))
    metrics = _read_json(folder / "metrics.json")
    unfinished = Run(events=events, results={}, finished=False)
    if metrics is not None:
        return Run(events=events, results=arms(metrics), finished=True)
    evaluated = {arm: unfinished.evaluations(arm) for arm in ARMS}
    last = {arm: by_round[max(by_round)] for arm, by_round in evaluated.items() if by_round}
    return Run(events=events, results=last, finished=False)


def _results_so_far(runs: Sequence[Run]) -> dict[str, Result]:
    if len(runs) == 1:
        return runs[0].results
    by_arm = {arm: [run.results[arm] for run in runs if arm in run.results] for arm in ARMS}
    return {arm: average_results(results) for arm, results in by_arm.items() if results}


def merge_seeds(seeds: Sequence[Mapping[int, float | None]]) -> tuple[Point, ...]:
    """One curve of several seeds.

    Args:
        seeds: the values of each seed, by round.

    Returns:
        Mean, lowest and highest at the rounds that every seed with any data has reached.
    """
    known = [{at: value for at, value in seed.items() if value is not None} for seed in seeds]
    known = [seed for seed in known if seed]
    if not known:
        return ()
    shared = sorted(set(known[0]).intersection(*known[1:]))
    points = []
    for at in shared:
        values = [seed[at] for seed in known]
        points.append(Point(x=at, mean=statistics.fmean(values), low=min(values), high=max(values)))
    return tuple(points)


def over_time(points: Sequence[Point], seeds: Sequence[Mapping[int, float]]) -> tuple[Point, ...]:
    """A curve over rounds as one over simulated seconds.

    Args:
        points: by round.
        seeds: of each seed, the seconds that have passed after a round.

    Returns:
        The points at the mean over seeds of these seconds; those whose round some seed has no seconds for are left out.
    """
    known = [point for point in points if seeds and all(int(point.x) in seed for seed in seeds)]
    return tuple(
        Point(x=statistics.fmean(seed[int(point.x)] for seed in seeds), mean=point.mean, low=point.low, high=point.high)
        for point in known
    )


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object")
    return content


def _natural(path: Path) -> list[tuple[int, str]]:
    """A sort key with which seed-10 comes after seed-9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
