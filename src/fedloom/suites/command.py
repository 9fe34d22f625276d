"""`fedloom evaluate DIR --suite`: a finished run's adapter, and its base beside it, on suites and tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich import progress as bars
from rich.console import Console

from fedloom import __version__
from fedloom.beginning import check_same_base
from fedloom.errors import UserError, unknown_name
from fedloom.model.base import quiet_libraries
from fedloom.model.fingerprint import base_fingerprint
from fedloom.recipe import Recipe
from fedloom.run_directory import ADAPTER, open_finished, write_json
from fedloom.suites.catalogue import HARNESS, choose
from fedloom.suites.items import Outcome
from fedloom.suites.judge.judge import Judge
from fedloom.suites.judge_stage import judge_answers, judge_line, open_judge
from fedloom.suites.kinds.base import Options
from fedloom.suites.kinds.dialogue import DialogueTask
from fedloom.suites.lm_eval_bridge import HarnessTask, harness_tasks, run_harness
from fedloom.suites.results import difference, summarise
from fedloom.suites.run import Examination, examine, outcomes_of
from fedloom.suites.sources import Missing, Place, check_place
from fedloom.suites.subject import Bench, Subject, adapter_subject, base_subject, check_evaluable, open_bench
from fedloom.suites.table import results_table

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Args:
        names: of suites and tasks, and lm_eval:TASK.
        place: where records are.
        limit: so many items of each task at most.
        baseline: whether the base is evaluated, too.
        options: what kinds are told.
        harness_folder: with tasks of one's own for lm-evaluation-harness.
        command: as it was typed; noted with the results.
    """

    names: Sequence[str]
    place: Place
    limit: int | None
    baseline: bool
    options: Options
    harness_folder: Path | None
    command: str


def requested(
    names: Sequence[str],
    folder: Path | None,
    hub: bool,
    limit: int | None,
    baseline: str | None,
    harness_folder: Path | None,
    options: Options,
    command: str,
) -> Request:
    """A request out of what was typed.

    Args:
        names: values of --suite, several separated by commas.
        folder: of --data.
        hub: whether --hub was given.
        limit: of --limit.
        baseline: of --baseline.
        harness_folder: of --lm-eval-tasks.
        options: what kinds are told.
        command: the whole of it.

    Returns:
        The request.

    Raises:
        UserError: for a limit that is none, a baseline that there is not, or no name.
    """
    single = [name.strip() for value in names for name in value.split(",") if name.strip()]
    if not single:
        raise UserError("--suite: is empty", hint="`fedloom evaluate --list` shows suites and tasks")
    if limit is not None and limit < 1:
        raise UserError(f"--limit: {limit} is not a positive number")
    if baseline not in {None, "base"}:
        raise unknown_name("--baseline", baseline, ["base"])
    return Request(single, Place(folder, hub), limit, baseline == "base", options, harness_folder, command)


def evaluate_suites(directory: Path, request: Request, console: Console) -> dict[str, Any]:
    """Evaluate a finished run, write `evaluation.json` and print a table.

    Args:
        directory: the run directory.
        request: what to evaluate.
        console: where progress and the table go.

    Returns:
        Task -> its entry in `evaluation.json`.

    Raises:
        UserError: for any mistake in the request, before a model is loaded.
    """
    quiet_libraries()
    folder, recipe = open_finished(directory)
    check_evaluable(recipe, str(folder))
    own = [name for name in request.names if not name.startswith(HARNESS)]
    others = harness_tasks(
        [name.removeprefix(HARNESS) for name in request.names if name.startswith(HARNESS)], request.harness_folder
    )
    examinations = examinations_of(own, request, console) if own else []
    check_same_base(recipe, folder)
    subjects = ["adapter", "base"] if request.baseline else ["adapter"]
    with open_judge(request.options.judge, folder, examinations) as judge:
        entries = _own_entries(folder, recipe, examinations, subjects, judge, request, console)
        cost = None if judge is None else judge_line(judge, entries)
    _write(folder, entries)
    if others:
        entries |= _harness_entries(folder, recipe, others, subjects, request)
        _write(folder, entries)
    console.print(results_table(entries))
    if cost is not None:
        console.print(f"judge    {cost}", highlight=False, soft_wrap=True)
    console.print(f"results  {folder / EVALUATION}", highlight=False, soft_wrap=True)
    return entries


def examinations_of(names: Sequence[str], request: Request, console: Console) -> list[Examination]:
    """Read the items of tasks; those of a suite whose files are not there are left out, and said to be.

    Args:
        names: of suites and tasks.
        request: says where.
        console: is told what is left out.

    Returns:
        What to ask.

    Raises:
        UserError: where a task that was named lacks its file, or all of them do.
    """
    tasks = choose(names, "--suite")
    check_place(request.place, "--data")
    found = []
    for task in tasks:
        try:
            found.append(examine(task, request.place, request.limit, request.options))
        except Missing as error:
            if task.name in names or (task is tasks[-1] and not found):
                raise
            console.print(f"left out: {error.message}", highlight=False, soft_wrap=True)
    return found


def _own_entries(
    folder: Path,
    recipe: Recipe,
    examinations: Sequence[Examination],
    subjects: Sequence[str],
    judge: Judge | None,
    request: Request,
    console: Console,
) -> dict[str, Any]:
    base = base_fingerprint(recipe.model)
    digests = {"adapter": _folder_digest(folder / ADAPTER, base), "base": base}

    @cache
    def bench() -> Bench:
        return open_bench(recipe)

    @cache
    def subject(name: str) -> Subject:
        return adapter_subject(bench(), folder) if name == "adapter" else base_subject(bench())

    # Files of outcomes that are not to be added to are found before a model is loaded.
    for examination in examinations:
        for name in subjects:
            examination.file(folder, name, digests[name]).close()
    entries = {}
    with _bar(console) as bar:
        for examination in examinations:
            found: dict[str, list[Outcome]] = {}
            for name in subjects:
                row = bar.add_task(f"{examination.task.name} {name}", total=len(examination.items))
                with examination.file(folder, name, digests[name]) as file:
                    found[name] = outcomes_of(examination, partial(subject, name), file, partial(bar.advance, row))
            more: dict[str, Any] = {}
            if judge is not None and isinstance(examination.task, DialogueTask):
                told = partial(_judged, bar, bar.add_task(f"{examination.task.name} judge", total=None))
                found, more = judge_answers(judge, folder, examination, found, told)
            entries[examination.task.name] = {**_entry(examination, found, request), **more}
    return entries


def _judged(bar: bars.Progress, row: bars.TaskID, done: int, total: int) -> None:
    bar.update(row, completed=done, total=total)


def _entry(examination: Examination, found: dict[str, list[Outcome]], request: Request) -> dict[str, Any]:
    task = examination.task
    entry = {
        "title": task.title,
        "suite": task.suite,
        "measure": task.score,
        **{name: summarise(task, examination.kind, outcomes) for name, outcomes in found.items()},
        "examples": examination.available,
        "limit": request.limit,
        "prompts_sha256": examination.prompts_digest,
        **_circumstances(request),
    }
    if "base" in found and (gain := difference(task, found["adapter"], found["base"])):
        entry["difference"] = gain
    return entry


def _harness_entries(
    folder: Path, recipe: Recipe, tasks: Sequence[HarnessTask], subjects: Sequence[str], request: Request
) -> dict[str, Any]:
    found = run_harness(folder, recipe, tasks, subjects, request.limit)
    return {name: {**entry, "limit": request.limit, **_circumstances(request)} for name, entry in found.items()}


def _circumstances(request: Request) -> dict[str, Any]:
    versions = {"fedloom": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {"command": request.command, "versions": versions}


def _folder_digest(folder: Path, base: str) -> str:
    digest = hashlib.sha256(base.encode())
    for path in sorted(folder.iterdir()):
        digest.update(f"\x1f{path.name}\x1f".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _write(folder: Path, entries: dict[str, Any]) -> None:
    """Put entries beside those of other tasks."""
    path = folder / EVALUATION
    before = json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.is_file() else {}
    write_json(path, {"tasks": {**before, **entries}})


def _bar(console: Console) -> bars.Progress:
    return bars.Progress(
        bars.TextColumn("[bold]{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
