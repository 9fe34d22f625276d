"""The tasks that there are: a folder of YAML files, and what a person calls them by."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from fedloom.errors import UserError, unknown_name
from fedloom.recipe.yaml_text import parse_yaml
from fedloom.suites.kinds.registry import KINDS
from fedloom.suites.task import SUITES, Task

TASKS = Path(__file__).parent / "tasks"
# What the harness's tasks are called by: lm_eval:TASK.
HARNESS = "lm_eval:"


def read_task(path: Path) -> Task:
    """Read a task's file.

    Args:
        path: the file; its name is the task's.

    Returns:
        The task, as its kind describes it.
    """
    values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    return KINDS[values["kind"]].task.model_validate({"name": path.stem, **values})


@cache
def all_tasks() -> dict[str, Task]:
    """All tasks by name, suite by suite."""
    tasks = [read_task(path) for path in sorted(TASKS.glob("*.yaml"))]
    return {task.name: task for task in sorted(tasks, key=lambda task: SUITES.index(task.suite))}


def choose(names: Iterable[str], key: str) -> list[Task]:
    """The tasks that suites and tasks stand for.

    Args:
        names: of suites and tasks.
        key: what they were given as, for error messages.

    Returns:
        Each once, in the order in which they are first named.

    Raises:
        UserError: for a name that is neither.
    """
    tasks = all_tasks()
    suites = {suite: [task for task in tasks.values() if task.suite == suite] for suite in SUITES}
    suites = {suite: members for suite, members in suites.items() if members}
    chosen: dict[str, Task] = {}
    for name in names:
        if name not in suites and name not in tasks:
            if name.startswith(HARNESS):
                raise UserError(f"{key}: {name!r} belongs to `fedloom evaluate` alone")
            raise unknown_name(key, name, [*suites, *tasks])
        chosen |= {task.name: task for task in suites.get(name, [tasks[name]] if name in tasks else [])}
    if not chosen:
        raise UserError(f"{key}: names no task", hint="`fedloom evaluate --list` shows them")
    return list(chosen.values())


def listing() -> str:
    """The tasks that there are, suite by suite, as text."""
    width = max(map(len, all_tasks()))
    lines: list[str] = []
    suite = ""
    for task in all_tasks().values():
        if task.suite != suite:
            suite = task.suite
            lines.append(suite)
        lines.append(f"  {task.name:<{width}}  {task.title} ({task.kind})")
    return "\n".join([*lines, "", f"{HARNESS}TASK is a task of lm-evaluation-harness."])
