"""Readers of dialogues: items have the fields questions and references, and what grading needs beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item

Records = Sequence[Mapping[str, Any]]


def questions(files: Sequence[Records]) -> Iterator[Item]:
    """MT-Bench and Vicuna-bench in FastChat's form (arXiv 2306.05685).

    Args:
        files: questions with turns; and, for some of them, GPT-4's answers to compare with.

    Yields:
        The items.
    """
    answers = {record["question_id"]: record["choices"][0]["turns"] for records in files[1:] for record in records}
    for record in files[0]:
        turns, references = list(record["turns"]), answers.get(record["question_id"])
        if references is not None and len(references) != len(turns):
            raise ValueError(f"question {record['question_id']}: {len(references)} references for {len(turns)} turns")
        yield Item(str(record["question_id"]), record["category"], {"questions": turns, "references": references})


def instructions(files: Sequence[Records]) -> Iterator[Item]:
    """FedLLM-Bench's test sets (arXiv 2406.04845): an instruction, with some a language and a reference.

    Args:
        files: one.

    Yields:
        The items, by their place in the file.
    """
    for place, record in enumerate(files[0]):
        language, reference = record.get("language"), record.get("reference")
        key = f"{place}" if language is None else f"{language}/{place}"
        references = None if reference is None else [reference]
        yield Item(key, language, {"questions": [record["instruction"]], "references": references})


def harmful(files: Sequence[Records]) -> Iterator[Item]:
    """AdvBench's harmful behaviours (arXiv 2307.15043): nothing but requests.

    Args:
        files: one.

    Yields:
        The items.
    """
    for place, record in enumerate(files[0]):
        yield Item(str(record.get("id", place)), None, {"questions": [record["goal"]], "references": None})


def refusals(files: Sequence[Records]) -> Iterator[Item]:
    """XSTest (arXiv 2308.01263): prompts that are safe, and others that look like them and are not.

    Args:
        files: one.

    Yields:
        The items, each with its label, safe or unsafe.
    """
    for record in files[0]:
        if record["label"] not in {"safe", "unsafe"}:
            raise ValueError(f"prompt {record['id']}: its label is {record['label']!r}, neither safe nor unsafe")
        fields = {"questions": [record["prompt"]], "references": None, "label": record["label"]}
        yield Item(str(record["id"]), record["type"], fields)
