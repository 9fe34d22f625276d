"""Runs as a person starts them: one recipe, one or several seeds, a folder, a closing table and a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, mean
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fedloom.errors import UserError
from fedloom.federation import Listener, Observer, Opener, train
from fedloom.launch import launch
from fedloom.places import Place, load_under_torchrun, place_under_torchrun
from fedloom.recipe import Recipe, load_recipe
from fedloom.report.cross import closing_cross_table, mean_rows
from fedloom.report.html import REPORT, write_report
from fedloom.report.progress import Progress, closing_table
from fedloom.report.results import average_results
from fedloom.report.trackers import open_tracker
from fedloom.run_directory import ADAPTER, METRICS, RunDirectory, write_json
from fedloom.shared_work import follow, open_run

if TYPE_CHECKING:
    from fedloom.runtime.process_group import ProcessGroup


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
    place, folder = place_under_torchrun(), Path(out)
    if place is not None:
        take_part(place, lambda: load_under_torchrun(recipe, overrides, place), folder, resume, seeds, show)
    else:
        checked = load_recipe(recipe, overrides)
        if checked.runtime.kind == "distributed":
            launch(checked, folder, resume, seeds, show)
        else:
            _carry_out(checked, folder, resume, seeds, show)
    return _result(folder)


def take_part(
    place: Place, recipe: Callable[[], Recipe], out: str | Path, resume: bool, seeds: int, show: bool
) -> None:
    """Be one of the processes of a distributed run, to its end.

    Args:
        place: which one; the first decides, and only it looks at the other arguments.
        recipe: reads the recipe.
        out: see `run`.
        resume: see `run`.
        seeds: see `run`.
        show: see `run`.

    Raises:
        UserError: in the first process, for any mistake that any of them found.
        ProcessLost: where another process died.
    """
    # Not at the top: a run in one process has nothing to do with torch.distributed.
    from fedloom.runtime.process_group import ProcessGroup

    # The first process looks at the recipe before it waits for the others.
    checked = recipe() if place.rank == 0 else None
    with ProcessGroup(place) as group:
        if checked is None:
            follow(group)
        else:
            _carry_out(checked, Path(out), resume, seeds, show, group)


def _carry_out(
    recipe: Recipe, folder: Path, resume: bool, seeds: int, show: bool, group: ProcessGroup | None = None
) -> None:
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} is not a positive number")
    console = Console() if show else Console(quiet=True)
    if seeds == 1:
        metrics = carry_out_one(recipe, folder, resume, console, partial(open_run, group=group))
    else:
        metrics = _several(recipe, folder, resume, seeds, console, group)
    write_report(folder)
    if show:
        console.print(closing_table(metrics))
        if (matrix := closing_cross_table(metrics)) is not None:
            console.print(matrix)
        result = _result(folder)
        console.print(f"adapter  {result.adapter}\nreport   {result.report}")


def _result(folder: Path) -> RunResult:
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    adapter = folder / f"seed-{metrics['seeds'][0]}" / ADAPTER if "seeds" in metrics else folder / ADAPTER
    return RunResult(folder, adapter, folder / REPORT, metrics)


def carry_out_one(recipe: Recipe, folder: Path, resume: bool, console: Console, opener: Opener) -> dict[str, Any]:
    """Carry out a recipe with its own seed: a run directory, trackers, live progress.

    Args:
        recipe: the run.
        folder: the run directory.
        resume: go on with the run that is there, if there is one.
        console: where progress is shown.
        opener: brings together what the run works with.

    Returns:
        The run's metrics.
    """
    with RunDirectory(folder, recipe, resume) as directory, ExitStack() as trackers:
        listeners: list[Listener] = []
        for name in recipe.trackers:
            tracker = open_tracker(name, folder, recipe.name)
            trackers.callback(tracker.close)
            listeners.append(tracker)
        return train(directory, _observer(listeners, console), opener)


def _several(
    recipe: Recipe, folder: Path, resume: bool, seeds: int, console: Console, group: ProcessGroup | None
) -> dict[str, Any]:
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out: {folder} is not empty", hint="go on with --resume, or give a new folder")
    recipes = [recipe.model_copy(update={"seed": recipe.seed + offset}) for offset in range(seeds)]
    results = []
    for seeded in recipes:
        console.print(f"[bold]seed {seeded.seed}[/bold]")
        folder_of_seed = folder / f"seed-{seeded.seed}"
        results.append(carry_out_one(seeded, folder_of_seed, resume, console, partial(open_run, group=group)))
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
    keys = ("seconds", "bytes_up", "bytes_down", "tokens", "rejected", "simulated_seconds")
    numbers = {key: fmean(run[key] for run in runs) for key in keys if key in runs[0]}
    stops = {str(seed): run["stop"] for seed, run in zip(seeds, runs, strict=True) if "stop" in run}
    return {
        "name": name,
        "seeds": seeds,
        "rounds": mean(run["rounds"] for run in runs),
        **({"stops": stops} if stops else {}),
        **numbers,
        **({"cross": mean_rows([run["cross"] for run in runs])} if "cross" in runs[0] else {}),
        "eval": average_results([run["eval"] for run in runs]),
        "baselines": {arm: average_results([run["baselines"][arm] for run in runs]) for arm in runs[0]["baselines"]},
    }
