"""Answers: the model writes a text, something is looked for in it and compared with what is right."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedloom.data.conversation import Message
from fedloom.data.readers import optional_package
from fedloom.errors import nearest
from fedloom.suites.extraction.grader import UNPARSABLE
from fedloom.suites.extraction.registry import GRADERS
from fedloom.suites.items import Item, Limits, Outcome
from fedloom.suites.kinds.base import Options
from fedloom.suites.task import Task

if TYPE_CHECKING:
    from fedloom.suites.subject import Subject

# Outcomes are kept after so many items: a few times as many as there are answers in progress.
ITEMS_AT_ONCE = 256


class AnswerTask(Task):
    """A task whose items are answered with text."""

    kind: Literal["answer"] = Field(description="How the model is asked.")
    asked: Literal["chat", "text"] = Field(
        description="chat: the prompt is a user's message, phrased by the run's template; text: the model goes on from "
        "the prompt as it is."
    )
    max_new_tokens: int = Field(ge=1, description="The longest answer.")
    stop: list[str] = Field([], description="An answer ends before the first of these.")
    grader: str = Field(description="What is looked for in an answer, and how it is compared.")

    @model_validator(mode="after")
    def _graded(self) -> AnswerTask:
        if self.grader not in GRADERS:
            close = nearest(self.grader, GRADERS)
            hint = f"; did you mean {close!r}?" if close else ""
            raise ValueError(f"grader: {self.grader!r} is not one of: {', '.join(GRADERS)}{hint}")
        grader = GRADERS[self.grader]
        for measure in self.measures:
            if measure not in (known := (*grader.measures, *grader.summaries)):
                raise ValueError(f"measures: {measure!r} is not one of grader {self.grader}'s: {', '.join(known)}")
        return self


class AnswerKind:
    """Greedy answers, graded by a pure function."""

    task: ClassVar[type[Task]] = AnswerTask

    def __init__(self, options: Options) -> None:
        pass

    def settings(self, task: Task) -> Mapping[str, Any]:
        """See `Kind`: the versions of packages that grade; one that is missing is told before a model is loaded."""
        grader = GRADERS[_answer(task).grader]
        for package in grader.packages:
            optional_package(package, f"task {task.name}", "suites")
        return {package: importlib.metadata.version(package) for package in grader.packages}

    def prompts(self, task: Task, item: Item) -> list[str]:
        """See `Kind`."""
        return [task.prompt_of(item)]

    def outcomes(self, task: Task, items: Sequence[Item], subject: Subject) -> Iterator[Outcome]:
        """See `Kind`."""
        asked = _answer(task)
        limits = Limits(asked.max_new_tokens, tuple(asked.stop))
        for first in range(0, len(items), ITEMS_AT_ONCE):
            some = items[first : first + ITEMS_AT_ONCE]
            prompts: list[str | list[Message]] = [task.prompt_of(item) for item in some]
            if asked.asked == "chat":
                prompts = [[Message("user", str(prompt))] for prompt in prompts]
            for item, reply in zip(some, subject.replies(prompts, limits), strict=True):
                yield self.grade(task, item, asdict(reply))

    def grade(self, task: Task, item: Item, output: Any) -> Outcome:
        """See `Kind`.

        Args:
            task: an `AnswerTask`.
            item: with what its grader needs.
            output: text, the model's; cut_off and truncated (see `Reply`), where they are known.

        Returns:
            The outcome; its output has text, answer, which is what was found in it, and gold. Where nothing was found,
            it is flagged "unparsable" and counts as wrong; "cut_off" and "truncated" are flags, too.
        """
        grader = GRADERS[_answer(task).grader]
        graded = grader.grade(item.fields, output["text"])
        measures = {name: value for name, value in graded.measures.items() if name in task.measures}
        flags = [UNPARSABLE] if graded.answer is None else []
        flags += [flag for flag in ("cut_off", "truncated") if output.get(flag)]
        found = {"text": output["text"], "answer": graded.answer, "gold": graded.gold}
        return Outcome(item.key, item.category, measures, tuple(flags), found)

    def summary(self, task: Task, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """See `Kind`: what the grader sums up."""
        found = GRADERS[_answer(task).grader].summary(outcomes)
        return {name: value for name, value in found.items() if name in task.measures}


def _answer(task: Task) -> AnswerTask:
    assert isinstance(task, AnswerTask)
    return task
