"""Readers of tasks that ask for programs; items have what their task's file makes a program with tests of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item

Records = Sequence[Mapping[str, Any]]

# The parts of MBPP by the last number of each (arXiv 2108.07732, section 2.1; numbers as its files have them).
MBPP_PARTS = {"prompt": 10, "test": 510, "validation": 600, "train": 974}
# Whose solutions are shown before a question (arXiv 2108.07732, section 3).
MBPP_SHOTS = (2, 3, 4)


def humaneval(files: Sequence[Records]) -> Iterator[Item]:
    """HumanEval (arXiv 2107.03374).

    Args:
        files: one.

    Yields:
        Items with prompt, test, entry_point and solution.
    """
    for record in files[0]:
        yield Item(
            record["task_id"],
            None,
            {
                "prompt": record["prompt"],
                "test": record["test"],
                "entry_point": record["entry_point"],
                "solution": record["canonical_solution"],
            },
        )


def mbpp(files: Sequence[Records]) -> Iterator[Item]:
    """MBPP (arXiv 2108.07732) as published, and its sanitized part.

    Args:
        files: one, with the problems that are shown before a question.

    Yields:
        Items with text, tests, setup, solution and shots (the shown problems: text, tests, solution); their category is
        the part that they belong to.
    """
    found = {int(record["task_id"]): _problem(record) for record in files[0]}
    shots = [{name: found[number][name] for name in ("text", "tests", "solution")} for number in MBPP_SHOTS]
    for number, fields in found.items():
        part = next(part for part, last in MBPP_PARTS.items() if number <= last)
        yield Item(str(number), part, {**fields, "shots": shots})


def _problem(record: Mapping[str, Any]) -> dict[str, Any]:
    # The sanitized part says prompt and test_imports where the whole says text and test_setup_code.
    setup = "\n".join(record["test_imports"]) if "test_imports" in record else record["test_setup_code"]
    return {
        "text": record["text"] if "text" in record else record["prompt"],
        "tests": list(record["test_list"]),
        "setup": _lines(setup),
        "solution": _lines(record["code"]),
    }


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").strip("\n")
