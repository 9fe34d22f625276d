"""Asking tasks: what is done is left out, outcomes are kept as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom.suites.items import Item, Outcome
from fedloom.suites.kinds.base import Kind, Options
from fedloom.suites.kinds.registry import KINDS
from fedloom.suites.outcomes import EVALUATIONS, OutcomeFile
from fedloom.suites.sources import Place, items_of
from fedloom.suites.task import Task, json_digest

if TYPE_CHECKING:
    from fedloom.suites.subject import Subject


@dataclass(frozen=True)
class Examination:
    """A task with the items that are asked.

    Args:
        task: what is evaluated.
        kind: its kind.
        items: those asked.
        available: how many items the task has in all.
        data: hash of these.
    """

    task: Task
    kind: Kind
    items: Sequence[Item]
    available: int
    data: str

    @cached_property
    def prompts_digest(self) -> str:
        """SHA-256, in hexadecimal, of all texts that the items are asked with."""
        return json_digest([self.kind.prompts(self.task, item) for item in self.items])

    def identity(self, subject: str) -> Mapping[str, str]:
        """What outcomes follow from, but for which items are asked.

        Args:
            subject: hash of the model under test.

        Returns:
            Hashes by what they are of.
        """
        settings = json_digest(dict(self.kind.settings(self.task)))
        return {"task file": self.task.digest(), "data": self.data, "settings": settings, "model": subject}

    def file(self, directory: Path, subject: str, digest: str) -> OutcomeFile:
        """Open the file of outcomes.

        Args:
            directory: the run directory.
            subject: adapter or base.
            digest: hash of that model.

        Returns:
            The file.
        """
        return OutcomeFile(directory / EVALUATIONS / self.task.name / f"{subject}.jsonl", self.identity(digest))


def examine(task: Task, place: Place, limit: int | None, options: Options, key: str = "--data") -> Examination:
    """Read a task's items.

    Args:
        task: what is to be evaluated.
        place: where its records are.
        limit: ask so many items at most.
        options: what the command line says to kinds.
        key: what the place was given as, for error messages.

    Returns:
        What to ask.
    """
    items = items_of(task, place, key)
    data = json_digest([[item.key, item.category, dict(item.fields)] for item in items])
    kind = KINDS[task.kind](options)
    # What it needs and lacks, such as a package, is told before a model is loaded.
    kind.settings(task)
    return Examination(task, kind, items[:limit], len(items), data)


def outcomes_of(
    examination: Examination, subject: Callable[[], Subject], file: OutcomeFile, told: Callable[[int], None]
) -> list[Outcome]:
    """Ask what is still to be asked.

    Args:
        examination: the task and its items.
        subject: the model under test; called where something is still to be asked.
        file: what is done.
        told: is given the number of items whenever some are done.

    Returns:
        The outcomes of all items, in their order.
    """
    left = [item for item in examination.items if item.key not in file.done]
    told(len(examination.items) - len(left))
    if left:
        for outcome in examination.kind.outcomes(examination.task, left, subject()):
            file.append(outcome)
            told(1)
    return [file.done[item.key] for item in examination.items]
