"""EleutherAI's lm-evaluation-harness on a run's adapter, loaded as other tools load it."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.errors import UserError, nearest
from fedloom.model.adapters.registry import adapter_class
from fedloom.model.base import load_tokenizer, pick_device, quiet_libraries, read_weights
from fedloom.recipe import Recipe
from fedloom.run_directory import ADAPTER

# Of measures that are no means, the harness draws so many samples for a standard error.
BOOTSTRAP = 1000


@dataclass(frozen=True)
class HarnessTask:
    """A task of the harness.

    Args:
        name: as the harness calls it; a group of tasks is one, too.
        manager: the harness's, which finds it.
    """

    name: str
    manager: Any


def harness_tasks(names: Sequence[str], folder: Path | None) -> list[HarnessTask]:
    """Find tasks of the harness; no model is loaded.

    Args:
        names: as the harness calls them.
        folder: with task files of one's own, in the harness's format.

    Returns:
        The tasks.

    Raises:
        UserError: where the harness is not installed, or has no such task.
    """
    if folder is not None and not names:
        raise UserError("--lm-eval-tasks has no effect without --suite lm_eval:TASK")
    if folder is not None and not folder.is_dir():
        raise UserError(f"--lm-eval-tasks: no such folder: {folder}")
    if not names:
        return []
    try:
        tasks = importlib.import_module("lm_eval.tasks")
    except ImportError:
        raise UserError(
            "--suite lm_eval:... needs the package 'lm_eval', which is not installed",
            hint="pip install 'fedloom[lm-eval]'",
        ) from None
    manager = tasks.TaskManager(include_path=None if folder is None else str(folder))
    for name in names:
        if name not in manager.all_tasks:
            close = nearest(name, manager.all_tasks)
            raise UserError(
                f"--suite: lm-evaluation-harness has no task {name!r}",
                hint=f"did you mean {close!r}?" if close else None,
            )
    return [HarnessTask(name, manager) for name in dict.fromkeys(names)]


def run_harness(
    directory: Path, recipe: Recipe, tasks: Sequence[HarnessTask], subjects: Sequence[str], limit: int | None
) -> dict[str, Any]:
    """Run tasks of the harness.

    Args:
        directory: the run directory.
        recipe: the run.
        tasks: one at least.
        subjects: adapter, base or both.
        limit: so many examples of each task at most.

    Returns:
        By lm_eval:TASK, for subtasks of a group each: title, measure, and for each subject score, standard_error, n and
        measures (the harness's "metric,filter"); with both subjects also their difference.
    """
    quiet_libraries()
    evaluator = importlib.import_module("lm_eval.evaluator")
    models = importlib.import_module("lm_eval.models.huggingface")
    device, found = pick_device(recipe.runtime.device), {}
    for subject in subjects:
        model = read_weights(recipe.model, device)
        if recipe.model.quantization is None:
            model.to(device)
        if subject == "adapter":
            model = adapter_class(recipe.model.adapter.kind).opened(model, directory / ADAPTER)
        lm = models.HFLM(pretrained=model.eval(), tokenizer=load_tokenizer(recipe.model), batch_size=8)
        found[subject] = evaluator.simple_evaluate(
            model=lm,
            tasks=[task.name for task in tasks],
            task_manager=tasks[0].manager,
            limit=limit,
            bootstrap_iters=BOOTSTRAP,
        )
    return _entries(found)


def _entries(found: Mapping[str, Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, result in next(iter(found.values()))["results"].items():
        measures = [key for key, value in result.items() if "," in key and "_stderr" not in key and _is_number(value)]
        if not measures:
            continue
        entry: dict[str, Any] = {"title": result.get("alias", name), "suite": "lm_eval", "measure": measures[0]}
        for subject, all_results in found.items():
            entry[subject] = _subject(all_results, name, measures)
        if len(found) > 1:
            entry["difference"] = _difference(found, name, measures[0])
        entries[f"lm_eval:{name}"] = entry
    return entries


def _subject(found: Mapping[str, Any], name: str, measures: Sequence[str]) -> dict[str, Any]:
    result = found["results"][name]
    metric, filtered = measures[0].split(",", 1)
    error = result.get(f"{metric}_stderr,{filtered}")
    counts = found.get("n-samples", {}).get(name)
    return {
        "score": result[measures[0]],
        "standard_error": error if _is_number(error) else None,
        "n": counts["effective"] if counts else len(found.get("samples", {}).get(name, [])),
        "measures": {measure: result[measure] for measure in measures},
    }


def _difference(found: Mapping[str, Any], name: str, measure: str) -> dict[str, Any]:
    """Of pairs, where the harness has kept what it measured of each example."""
    score = found["adapter"]["results"][name][measure] - found["base"]["results"][name][measure]
    metric, filtered = measure.split(",", 1)
    values = [
        {one["doc_id"]: one[metric] for one in results.get("samples", {}).get(name, []) if one["filter"] == filtered}
        for results in (found["adapter"], found["base"])
    ]
    gains = [values[0][key] - values[1][key] for key in values[0] if _is_number(values[0][key])]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
    return {"score": score, "standard_error": error}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
