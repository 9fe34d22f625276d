"""Prompts of several instructions: strict and loose, by prompt and by instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.suites.extraction.grader import Graded
from fedloom.suites.extraction.instructions.checks import follows
from fedloom.suites.items import Outcome


def loosened(response: str) -> list[str]:
    """A response and what is left of it without its first line, its last, both, and without asterisks.

    Args:
        response: a text.

    Returns:
        Eight texts: one that follows an instruction is enough for the loose measures (arXiv 2311.07911, section 2.2).
    """
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def grade_instructions(fields: Mapping[str, Any], text: str) -> Graded:
    """Check all instructions of a prompt.

    Args:
        fields: instructions, a list of name and arguments.
        text: an answer.

    Returns:
        prompt_strict and prompt_loose: whether all are followed. The answer found is, for each instruction, whether it
        is followed strictly and loosely.
    """
    instructions = fields["instructions"]
    strict = [follows(text, one["name"], one["arguments"]) for one in instructions]
    loose = [
        done or any(follows(part, one["name"], one["arguments"]) for part in loosened(text))
        for done, one in zip(strict, instructions, strict=True)
    ]
    followed = {"strict": strict, "loose": loose} if text.strip() else None
    measures = {"prompt_strict": float(all(strict)), "prompt_loose": float(all(loose))}
    return Graded(followed, [one["name"] for one in instructions], measures)


def instruction_measures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How many of all instructions are followed.

    Args:
        outcomes: with answer and gold in their output.

    Returns:
        instruction_strict and instruction_loose.
    """
    count = sum(len(outcome.output["gold"]) for outcome in outcomes)
    answers = [outcome.output["answer"] for outcome in outcomes]
    return {
        f"instruction_{how}": sum(sum(answer[how]) for answer in answers if answer is not None) / count
        for how in ("strict", "loose")
    }
