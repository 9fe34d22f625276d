from __future__ import annotations

from typing import Any

import pytest

from fedloom.data.conversation import Message, UnusableRecord, check_fields, conversation_of, field_keys
from fedloom.data.readers import Record
from fedloom.errors import UserError
from fedloom.recipe.fields_schema import FieldsConfig

SINGLE = FieldsConfig(prompt="q", context="c", response="a", system="s")
MULTI = FieldsConfig(messages="m", system="s")


def convert(values: dict[str, Any], fields: FieldsConfig = SINGLE) -> list[Message]:
    return conversation_of(Record(values, "rows.jsonl", 3, by_line=True), fields)


def test_single_turn() -> None:
    assert convert({"q": "Why?", "c": "Because.", "a": "So.", "s": "Be brief."}) == [
        Message("system", "Be brief."),
        Message("user", "Why?", "Because."),
        Message("assistant", "So."),
    ]


@pytest.mark.parametrize("nothing", [None, "", "  \n", float("nan")])
def test_nothing_there_never_becomes_text(nothing: object) -> None:
    bare = [Message("user", "Why?"), Message("assistant", "So.")]
    assert convert({"q": "Why?", "c": nothing, "a": "So.", "s": nothing}) == bare
    assert convert({"q": "Why?", "a": "So."}) == bare
    for answer in ({"a": nothing}, {"a": nothing, "c": "x"}):
        with pytest.raises(UnusableRecord, match="empty response"):
            convert({"q": "Why?", **answer})
    with pytest.raises(UnusableRecord, match="empty prompt"):
        convert({"q": nothing, "a": "So."})


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (2.5, "2.5"), (True, "true"), (0, "0"), (False, "false")])
def test_numbers_and_truth_values_become_text(value: object, text: str) -> None:
    assert convert({"q": "Why?", "a": value})[-1].content == text


@pytest.mark.parametrize("value", [["x"], {"x": 1}])
def test_nested_values_are_errors(value: object) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:3: the field 'a' holds a nested value"):
        convert({"q": "Why?", "a": value})


def test_both_spellings_of_a_conversation_agree() -> None:
    openai = [("system", "S"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    sharegpt = {"system": "system", "user": "human", "assistant": "gpt"}
    first = convert({"m": [{"role": r, "content": t} for r, t in openai], "s": "ignored"}, MULTI)
    second = convert({"m": [{"from": sharegpt[r], "value": t} for r, t in openai]}, MULTI)
    assert first == second == [Message(r, t) for r, t in openai]


def test_system_field_comes_first() -> None:
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    assert convert({"m": turns, "s": "S"}, MULTI)[0] == Message("system", "S")


def test_turns_that_teach_nothing_are_left_out() -> None:
    turns = [("gpt", "hello"), ("human", "1"), ("gpt", "2"), ("human", "3")]
    messages = convert({"m": [{"from": r, "value": t} for r, t in turns]}, MULTI)
    assert messages == [Message("user", "1"), Message("assistant", "2")]


@pytest.mark.parametrize("turns", [None, [], [{"role": "user", "content": "1"}]])
def test_conversation_without_answer(turns: object) -> None:
    with pytest.raises(UnusableRecord, match="empty response"):
        convert({"m": turns}, MULTI)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("text", "is not a list of messages but str"),
        (["text"], "message 1 is not an object"),
        ([{"role": "user"}], "message 1 has no 'content'; keys there: role"),
        ([{"role": "asistant", "content": "x"}], "message 1, role: 'asistant' is not one of: .*'assistant'"),
        ([{"role": None, "content": "x"}], "message 1, role: None is not one of"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1 holds a nested value"),
    ],
)
def test_malformed_conversations(turns: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert({"m": turns}, MULTI)


def test_missing_fields_are_named_with_the_nearest() -> None:
    records = [Record({"question": 1, "a": 2}, "x.json", n) for n in (1, 2)]
    records[1].values["q"] = "x"
    required, optional = field_keys(FieldsConfig(prompt="q", response="a", context="cc"))
    with pytest.raises(UserError, match=r"data.fields.prompt: x.json: record 1 has no field 'q'; .*: question, a"):
        check_fields(records, required, optional)
    with pytest.raises(UserError, match=r"data.fields.context: no record has the field 'cc'"):
        check_fields(records, {}, optional)
    with pytest.raises(UserError, match=r"did you mean 'question'\?"):
        check_fields(records, {"data.fields.prompt": "questions"}, {})
    records[1].values["cc"] = ""
    check_fields(records, {}, optional)
