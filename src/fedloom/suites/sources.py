"""A task's records: in files anywhere below a folder, or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.data.readers import read_file
from fedloom.data.sources import locate, read_locations
from fedloom.errors import UserError
from fedloom.randomness import numpy_generator
from fedloom.recipe.data_schema import SourceConfig
from fedloom.suites.items import Item
from fedloom.suites.readers.registry import READERS
from fedloom.suites.task import Task

Records = list[dict[str, Any]]
# The first N items are the same for everybody, whichever run is evaluated.
ORDER_SEED = 0


class Missing(UserError):
    """A task's file is not there."""


@dataclass(frozen=True)
class Place:
    """Where records are looked for.

    Args:
        folder: with the files, anywhere below it; None: none was given.
        hub: whether what has a place on the hub is read from there.
    """

    folder: Path | None
    hub: bool = False


def check_place(place: Place, key: str) -> None:
    """Check that there is somewhere to look.

    Args:
        place: to be checked.
        key: what its folder was given as.

    Raises:
        UserError: where neither folder nor hub was given, or the folder is not there.
    """
    if place.folder is None and not place.hub:
        raise UserError(f"{key}: missing", hint="the folder with the tasks' files; --hub reads them from the hub")
    if place.folder is not None and not place.folder.is_dir():
        raise UserError(f"{key}: no such folder: {place.folder}")


def items_of(task: Task, place: Place, key: str = "--data") -> list[Item]:
    """The items of a task.

    Args:
        task: says which files, and who reads them.
        place: where.
        key: what the folder was given as, for error messages.

    Returns:
        All items, in an order that is drawn once and for all and spread over categories: the first N of it are what
        a limit of N leaves.

    Raises:
        Missing: where a file is not there.
        UserError: where it can't be read.
    """
    records = [_records(task, number, place, key) for number in range(len(task.files))]
    try:
        items = list(READERS[task.reader](records))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{key}: {task.files[0]} is not what task {task.name} reads: {type(error).__name__} {error}",
            hint=task.given,
        ) from None
    if task.categories:
        items = [item for item in items if item.category in task.categories]
    if len({item.key for item in items}) < len(items):
        raise UserError(f"{key}: {task.files[0]} has two examples of one name")
    return spread(items, task.name)


def spread(items: Sequence[Item], name: str) -> list[Item]:
    """Put items into a random order in which every beginning has about as much of each category as of any other.

    Args:
        items: in their file's order.
        name: of their task, which the order follows from.

    Returns:
        The same items.
    """
    order = numpy_generator(ORDER_SEED, "suite order", 0, name).permutation(len(items))
    turns: dict[str | None, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for place in order.tolist():
        category = items[place].category
        ranked.append((turns.get(category, 0), len(ranked), place))
        turns[category] = turns.get(category, 0) + 1
    return [items[place] for _, _, place in sorted(ranked)]


def _records(task: Task, number: int, place: Place, key: str) -> Records:
    name = task.files[number]
    found = _found(place.folder, name) if place.folder is not None else []
    if len(found) > 1:
        raise UserError(f"{key}: {name} is there twice: {found[0]} and {found[1]}")
    if found:
        return [record.values for record in read_file(found[0])]
    if place.hub and task.hub:
        hub = task.hub[number]
        source = SourceConfig(path=f"{hub.path}:{hub.split}", subset=hub.name)
        return [record.values for record in read_locations(locate(source, "--hub"), ORDER_SEED, "--hub")]
    where = "the hub has none" if place.folder is None else f"{place.folder} holds no {name}"
    hint = task.given or ("--hub reads it from the hub" if task.hub and not place.hub else None)
    raise Missing(f"{key}: task {task.name} needs {name}, and {where}", hint=hint)


def _found(folder: Path, name: str) -> list[Path]:
    other = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    return sorted({*folder.rglob(name), *folder.rglob(other)})
