"""A source's section that is wrong, or says something without effect, is refused with its key."""

from pathlib import Path

import pytest

from tests.federated_runs import recipe
from tests.user_errors import Refused, contains


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("{pth: rows.jsonl}", ["data.source.pth: unknown key", "path, subset, name, fields", "mean 'path'"]),
        ("[{path: rows.jsonl, example: 3}]", ["data.source.0.example: unknown key", "mean 'examples'"]),
        ("[{name: a}]", ["data.source.0.path: is required"]),
        ("[3]", ["data.source.0: 3 is not text or a section with the keys path, subset, name"]),
        ("[{path: rows.jsonl, examples: 0}]", ["data.source.0.examples: 0 is not a number from 1 up"]),
        ("[{path: rows.jsonl, fields: {prompt: prompt}}]", ["data.source.0.fields: needs prompt and response"]),
        ("[{path: rows.jsonl, name: a}]", ["data.source.0.name has no effect on partition by_key"]),
        ("[{path: rowz.jsonl}]", ["data.source.0.path: no such file: rowz.jsonl", "did you mean rows.jsonl?"]),
        ("{path: rows.jsonl, subset: main}", ["data.source: subset 'main' has no effect on rows.jsonl"]),
        ("{path: pocket-tasks}", ["data.source.path: pocket-tasks is complete in itself"]),
        ("[{path: rows.jsonl}, rows.jsonl]", ["data.source: rows.jsonl is named twice"]),
        (
            "[{path: rows.jsonl, instruction: Say., fields: {prompt: prompt, context: owner, response: response}}]",
            ["data.source.0.instruction: its context is the prompt field, so fields.context has no place"],
        ),
        (
            "{path: rows.jsonl, instruction: Say., fields: {messages: prompt}}",
            ["data.source.instruction: its context is the prompt field, so fields.messages has no place"],
        ),
    ],
)
def test_sections(refused_early: Refused, rows: Path, source: str, parts: list[str]) -> None:
    contains(refused_early(recipe(rows), "--set", f"data.source={source}"), *parts)


def test_general_fields_that_no_source_uses(refused_early: Refused, rows: Path) -> None:
    values = recipe(rows, data={"fields": {"prompt": "a", "response": "b"}})
    section = "{path: rows.jsonl, fields: {prompt: prompt, response: response}}"
    told = refused_early(values, "--set", f"data.source={section}")
    contains(told, "data.fields has no effect: every source has fields of its own")
