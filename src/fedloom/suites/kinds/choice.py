"""Choices: of several continuations, the model's answer is the one that it finds most likely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedloom.suites.items import Item, Outcome
from fedloom.suites.kinds.base import Options
from fedloom.suites.task import Task, render

if TYPE_CHECKING:
    from fedloom.suites.subject import Subject

# Outcomes are kept after so many items.
ITEMS_AT_ONCE = 64


class ChoiceTask(Task):
    """A task whose items have the fields choices (texts) and gold (the places of the right ones among them)."""

    MEASURES: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_normalised", "probability_mass")

    kind: Literal["choice"] = Field(description="How the model is asked.")
    continuation: str = Field(
        " {{ choice }}",
        description="A Jinja template: what follows the prompt and is scored. Like the prompt it knows the item's "
        "fields, choice (the text of one of them) and letter (A, B, ...).",
    )


class ChoiceKind:
    """Scores continuations by their likelihood, as GPT-3's multiple choice tasks were (arXiv 2005.14165, 2.4)."""

    task: ClassVar[type[Task]] = ChoiceTask

    def __init__(self, options: Options) -> None:
        pass

    def settings(self, task: Task) -> Mapping[str, Any]:
        """See `Kind`."""
        return {}

    def prompts(self, task: Task, item: Item) -> list[str]:
        """See `Kind`: contexts and continuations."""
        return [text for pair in pairs_of(_choice(task), item) for text in pair]

    def outcomes(self, task: Task, items: Sequence[Item], subject: Subject) -> Iterator[Outcome]:
        """See `Kind`."""
        for first in range(0, len(items), ITEMS_AT_ONCE):
            some = items[first : first + ITEMS_AT_ONCE]
            asked = [pairs_of(_choice(task), item) for item in some]
            owners = [place for place, pairs in enumerate(asked) for _ in pairs]
            found = iter(subject.log_likelihoods([pair for pairs in asked for pair in pairs], owners))
            for item, pairs in zip(some, asked, strict=True):
                scored = [next(found) for _ in pairs]
                output = {
                    "log_likelihoods": [one.log_probability for one in scored],
                    "tokens": [one.tokens for one in scored],
                    "truncated": any(one.truncated for one in scored),
                }
                yield self.grade(task, item, output)

    def grade(self, task: Task, item: Item, output: Any) -> Outcome:
        """See `Kind`.

        Args:
            task: a `ChoiceTask`.
            item: with choices and gold.
            output: log_likelihoods, a number in nats for each choice; truncated, whether a context was.

        Returns:
            The outcome. Accuracy: whether the most likely choice is right (the first, of equally likely ones);
            normalised: likelihoods divided by the characters of the choice, as lm-evaluation-harness does;
            probability_mass: the share of the right choices in the probability of all (TruthfulQA's MC2, arXiv
            2109.07958).
        """
        likelihoods, gold = np.array(output["log_likelihoods"]), item.fields["gold"]
        lengths = np.array([len(choice) for choice in item.fields["choices"]])
        masses = np.exp(likelihoods - likelihoods.max())
        values = {
            "accuracy": float(int(likelihoods.argmax()) in gold),
            "accuracy_normalised": float(int((likelihoods / lengths).argmax()) in gold),
            "probability_mass": float(masses[gold].sum() / masses.sum()),
        }
        measures = {measure: values[measure] for measure in task.measures}
        flags = ("truncated",) if output.get("truncated") else ()
        return Outcome(item.key, item.category, measures, flags, output)

    def summary(self, task: Task, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """See `Kind`: all measures are means."""
        return {}


def pairs_of(task: ChoiceTask, item: Item) -> list[tuple[str, str]]:
    """The texts whose likelihoods are compared.

    Args:
        task: how they are phrased.
        item: with choices.

    Returns:
        (context, continuation) for each choice.
    """
    pairs = []
    for place, choice in enumerate(item.fields["choices"]):
        more = {"choice": choice, "letter": ascii_uppercase[place : place + 1]}
        pairs.append((task.prompt_of(item, **more), render(task.continuation, {**item.fields, **more})))
    return pairs


def _choice(task: Task) -> ChoiceTask:
    assert isinstance(task, ChoiceTask)
    return task
