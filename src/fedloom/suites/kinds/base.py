"""What a kind of task is: asks a subject, grades what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fedloom.suites.items import Item, Outcome
from fedloom.suites.judge.config import JudgeConfig
from fedloom.suites.task import Task

if TYPE_CHECKING:
    from fedloom.suites.subject import Subject


@dataclass(frozen=True)
class Options:
    """What the command line says to kinds.

    Args:
        sandbox: how programs that a model wrote are shut in: isolated or weak; None: nothing was said.
        judge: who judges answers, after they are all there; None: nobody.
    """

    sandbox: str | None = None
    judge: JudgeConfig | None = None


class Kind(Protocol):
    """One way of asking and grading; built with the command's `Options`."""

    # The keys of its tasks' files.
    task: ClassVar[type[Task]]

    def __init__(self, options: Options) -> None: ...

    def settings(self, task: Task) -> Mapping[str, Any]:
        """What outcomes depend on beside the task's file, the items and the subject: JSON values."""
        ...

    def prompts(self, task: Task, item: Item) -> Sequence[str]:
        """The texts that an item is asked with: their hash is noted with the results."""
        ...

    def outcomes(self, task: Task, items: Sequence[Item], subject: Subject) -> Iterator[Outcome]:
        """Ask and grade, in batches.

        Args:
            task: of this kind.
            items: those that are still to be done.
            subject: the model under test.

        Yields:
            One outcome for each item, in any order, as soon as it is there.
        """
        ...

    def grade(self, task: Task, item: Item, output: Any) -> Outcome:
        """Grade what a model gave: a pure function.

        Args:
            task: of this kind.
            item: what was asked.
            output: as in `Outcome.output`.

        Returns:
            The outcome.
        """
        ...

    def summary(self, task: Task, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Measures of a whole task that are no means over items.

        Args:
            task: of this kind.
            outcomes: of all items.

        Returns:
            By name; empty where the means say it all.
        """
        ...
