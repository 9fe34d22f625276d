"""Runs as a person starts them: one recipe, one or several seeds, a folder, a closing table and a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from fedloom.errors import UserError
from fedloom.federation import Listener, Observer, train
from fedloom.recipe import Recipe, load_recipe
from fedloom.report.html import write_report
from fedloom.report.progress import Progress, closing_table
from fedloom.report.results import average_results
from fedloom.report.trackers import open_tracker
from fedloom.run_directory import ADAPTER, METRICS, RunDirectory, write_json


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Args:
        out: the run directory.
        adapter: its PEFT folder (of the first seed, where there are several).
        report: its HTML page.
        metrics: as in `metrics.json`.
    """

    out: Path
    adapter: Path
    report: Path
    metrics: dict[str, Any]


def run(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    overrides: Sequence[str] = (),
    resume: bool = False,
    seeds: int = 1,
    show: bool = False,
) -> RunResult:
    """Carry out a recipe.

    Args:
        recipe: a YAML file, or the recipe as a mapping.
        out: the run directory: new, or with `resume` the one to go on with.
        overrides: strings such as "local.steps=20".
        resume: go on with a run that was stopped or killed; it ends with the same bytes.
        seeds: number of runs with consecutive seeds; above 1 they lie in `out/seed-N` and metrics are means.
        show: live progress and a closing table on the terminal.

    Returns:
        Paths and metrics.

    Raises:
        UserError: for any mistake in the recipe, the data or the folder.
    """
    checked = load_recipe(recipe, overrides)
    folder = Path(out)
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} is not a positive number")
    console = Console() if show else Console(quiet=True)
    if seeds == 1:
        metrics = _single(checked, folder, resume, console)
        adapter = folder / ADAPTER
    else:
        metrics = _several(checked, folder, resume, seeds, console)
        adapter = folder / f"seed-{checked.seed}" / ADAPTER
    report = write_report(folder)
    if show:
        console.print(closing_table(metrics))
        console.print(f"adapter  {adapter}\nreport   {report}")
    return RunResult(folder, adapter, report, metrics)


def _single(recipe: Recipe, folder: Path, resume: bool, console: Console) -> dict[str, Any]:
    with RunDirectory(folder, recipe, resume) as directory, ExitStack() as trackers:
        listeners: list[Listener] = []
        for name in recipe.trackers:
            tracker = open_tracker(name, folder, recipe.name)
            trackers.callback(tracker.close)
            listeners.append(tracker)
        return train(directory, _observer(listeners, console))


def _several(recipe: Recipe, folder: Path, resume: bool, seeds: int, console: Console) -> dict[str, Any]:
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out: {folder} is not empty", hint="go on with --resume, or give a new folder")
    recipes = [recipe.model_copy(update={"seed": recipe.seed + offset}) for offset in range(seeds)]
    results = []
    for seeded in recipes:
        console.print(f"[bold]seed {seeded.seed}[/bold]")
        results.append(_single(seeded, folder / f"seed-{seeded.seed}", resume, console))
    metrics = _mean_metrics(recipe.name, [seeded.seed for seeded in recipes], results)
    write_json(folder / METRICS, metrics)
    return metrics


def _observer(listeners: Sequence[Listener], console: Console) -> Observer:
    @contextmanager
    def observe(rounds: dict[str, int]) -> Iterator[Listener]:
        with Progress(rounds, console) as progress:
            everyone: list[Listener] = [progress, *listeners]

            def tell(event: dict[str, Any]) -> None:
                for listener in everyone:
                    listener(event)

            yield tell

    return observe


def _mean_metrics(name: str, seeds: list[int], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    numbers = {key: fmean(run[key] for run in runs) for key in ("seconds", "bytes_up", "bytes_down", "tokens")}
    return {
        "name": name,
        "seeds": seeds,
        "rounds": runs[0]["rounds"],
        **numbers,
        "eval": average_results([run["eval"] for run in runs]),
        "baselines": {arm: average_results([run["baselines"][arm] for run in runs]) for arm in runs[0]["baselines"]},
    }
