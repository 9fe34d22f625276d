"""Preferences from records to shards: dialogues by their turns, pairs with one prompt, annotators, single answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fedloom.data import FederatedData, allocate, describe, prepare, render
from fedloom.data.conversation import Message, UnusableRecord
from fedloom.data.dialogue import continued, joined, spoken, turns_of
from fedloom.data.preference_tokens import SAME_WHEN_CUT, kept_lengths
from fedloom.data.preferences import DIFFERENT_PROMPTS, NOT_JUDGED, SAME_ANSWERS, TIE, preference_of
from fedloom.data.readers import Record
from fedloom.data.shards import ExampleSet
from fedloom.data.tokenizing import ANSWER_CUT_OFF
from fedloom.errors import UserError
from fedloom.model.example_sets import examples_at
from fedloom.recipe import Recipe, validate_recipe
from fedloom.recipe.fields_schema import FieldsConfig
from fedloom.runtime.attack import FlippedPreferences

Write = Callable[..., Path]
PAIR = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
JUDGED = {"prompt": "prompt", "response": "response", "desirable": "good"}
LABELLED = {"prompt": "prompt", "response_a": "one", "response_b": "two", "preferred": "best"}
DIALOGUES = {"chosen": "chosen", "rejected": "rejected", "dialogue": "hh"}

words = st.lists(st.sampled_from(["\n", " ", "a", "b", ":", "Human", "Assistant"]), max_size=12).map("".join)
turns = st.lists(st.tuples(st.sampled_from(["\n\nHuman:", "\n\nAssistant:"]), words), max_size=6)


def recipe(source: Path, fields: dict[str, Any], loss: str = "sigmoid", **data: Any) -> Recipe:
    section = {"source": str(source), "fields": fields, "template": "chat", **data}
    section.setdefault("partition", {"kind": "iid", "clients": 2})
    section.setdefault("split", {"validation": 0, "test": 0})
    task = {"kind": "dpo", "loss": loss}
    return validate_recipe({"data": section, "task": task, "federation": {"clients_per_round": 1}})


def pairs(number: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"q{n}", "chosen": f"yes {n}", "rejected": f"no {n}", **fields} for n in range(number)]


def preference(values: dict[str, Any], fields: dict[str, Any]) -> Any:
    return preference_of(Record(values, "rows.jsonl", 1), FieldsConfig(**fields))


def texts(examples: ExampleSet, place: int, tokenizer: Any) -> list[tuple[str, str]]:
    """What stands before the first label of each half, and what follows."""
    found = []
    for one in examples_at(examples, [place]):
        start = int(one.trained.argmax())
        found.append((tokenizer.decode(one.tokens[:start]), tokenizer.decode(one.tokens[start:])))
    return found


@settings(max_examples=150, deadline=None)
@given(said=turns)
def test_turns_join_to_the_same_text(said: list[tuple[str, str]]) -> None:
    text = "".join(mark + words for mark, words in said)
    found = turns_of(text, "here")
    assert joined(found) == text
    assert len(found) >= len(said)
    # A turn's text holds no mark, so that taking it apart once more finds the same.
    assert [turn for one in found for turn in turns_of(joined([one]), "here")] == found
    roles = [role for role, _ in spoken(found)]
    assert all(one != other for one, other in pairwise(roles))


def test_a_dialogue_is_read_by_its_turns() -> None:
    text = "\n\nHuman:  Hi \n\nAssistant: Human: you?\n\nA list\n\nHuman:\n\nHuman: Go on\n\nAssistant: Yes"
    assert spoken(turns_of(text, "here")) == [
        ("user", "Hi"),
        ("assistant", "Human: you?\n\nA list"),
        ("user", "Go on"),
        ("assistant", "Yes"),
    ]
    with pytest.raises(UserError, match=r"here is no dialogue as in HH-RLHF: it begins with 'Human: Hi'"):
        turns_of("Human: Hi", "here")


@pytest.mark.parametrize(("prompt", "answer"), [("\n\nAssistant:", "Yes"), ("\n\nAssistant: ", "Yes")])
def test_an_answer_goes_on_after_one_space(prompt: str, answer: str) -> None:
    assert continued(prompt, answer) == "\n\nAssistant: Yes"


def test_dialogues_part_at_a_turn_and_not_within_one() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
    found = preference({"chosen": f"{start} See you", "rejected": f"{start} See me"}, DIALOGUES)
    assert [message.content for message in found.prompt] == ["Hi", "Hello", "Bye"]
    assert [answer[0].content for answer in found.answers] == ["See you", "See me"]


def test_what_follows_the_first_difference_is_the_answer() -> None:
    values = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: Bye\n\nAssistant: B",
        "rejected": "\n\nHuman: Hi\n\nAssistant: C",
    }
    found = preference(values, DIALOGUES)
    assert found.prompt == [Message("user", "Hi")]
    assert [[message.content for message in answer] for answer in found.answers] == [["A", "Bye", "B"], ["C"]]


@pytest.mark.parametrize(
    ("values", "fields", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, PAIR, SAME_ANSWERS),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, PAIR, "empty response"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, PAIR, "empty prompt"),
        ({"prompt": "q", "one": "a", "two": "b", "best": 0}, LABELLED, TIE),
        ({"prompt": "q", "one": "a", "two": "b", "best": None}, LABELLED, TIE),
        ({"prompt": "q", "response": "a", "good": None}, JUDGED, NOT_JUDGED),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: Bye\n\nAssistant: B",
                "rejected": "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: So\n\nAssistant: C",
            },
            DIALOGUES,
            DIFFERENT_PROMPTS,
        ),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: A", "rejected": "\n\nHuman: Ho\n\nAssistant: A"},
            DIALOGUES,
            DIFFERENT_PROMPTS,
        ),
    ],
)
def test_what_teaches_no_preference_is_left_out(values: dict[str, Any], fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRecord, match=f"^{reason}$"):
        preference(values, fields)


@pytest.mark.parametrize(
    ("value", "first"), [(1, True), ("1", True), (1.0, True), ("A", True), (2, False), ("b", False), (" 2 ", False)]
)
def test_a_label_says_which_answer_is_better(value: Any, first: bool) -> None:
    found = preference({"prompt": "q", "one": "a", "two": "b", "best": value}, LABELLED)
    assert [answer[0].content for answer in found.answers] == (["a", "b"] if first else ["b", "a"])


def test_another_label_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"rows.jsonl: record 1, best: 3 is not one of: 1, a, 2, b, 0, tie"):
        preference({"prompt": "q", "one": "a", "two": "b", "best": 3}, LABELLED)
    with pytest.raises(UserError, match=r"good: 'perhaps' is not one of: true, yes, 1, false, no, 0"):
        preference({"prompt": "q", "response": "a", "good": "perhaps"}, JUDGED)


def test_lists_of_messages_share_their_beginning(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    said = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]
    start = [{"role": role, "content": text} for role, text in said]
    row = {key: [*start, {"role": "assistant", "content": key}] for key in ("chosen", "rejected")}
    source = write_lines([row] * 4)
    data = prepare(recipe(source, {"chosen": "chosen", "rejected": "rejected"}), tokenizer, tmp_path / "data")
    prompt = "<|start|>system\ns<|end|>\n<|start|>user\nu<|end|>\n<|start|>assistant\na<|end|>\n"
    prompt += "<|start|>user\nv<|end|>\n<|start|>assistant\n"
    found = texts(data.all_examples("train"), 0, tokenizer)
    # Of the prompt, earlier answers of the assistant included, nothing is trained.
    assert found == [("<s>" + prompt, "chosen<|end|>\n"), ("<s>" + prompt, "rejected<|end|>\n")]
    with pytest.raises(UserError, match="is not a list of messages but str") as told:
        prepare(
            recipe(write_lines(pairs(3), "text.jsonl"), {k: PAIR[k] for k in ("chosen", "rejected")}),
            tokenizer,
            tmp_path,
        )
    assert told.value.hint == "texts as in HH-RLHF are read with fields.dialogue: hh"


def test_a_pair_is_one_example_with_two_halves(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    data = prepare(recipe(write_lines(pairs(6)), PAIR), tokenizer, tmp_path / "data")
    examples = data.examples("client-000", "train")
    assert len(examples) == 3
    rows = examples_at(examples, [2, 0])
    assert [row.key for row in rows] == [4, 5, 0, 1]
    assert examples.desirable(0) is None
    for place in range(3):
        tokens, trained = examples.tokens(place), examples.trained(place)
        others, other_trained = examples.rejected(place)  # type: ignore[misc]
        assert examples.lengths[place] == len(tokens) + len(others)
        assert examples.label_counts[place] == trained.sum() + other_trained.sum()
        start = int(trained.argmax())
        assert start == int(other_trained.argmax())
        assert np.array_equal(tokens[:start], others[:start])
        (prompt, better), (_, worse) = texts(examples, place, tokenizer)
        assert (better[:4], worse[:3]) == ("yes ", "no ")
        assert better[4] == worse[3] == prompt[prompt.index("q") + 1]
    assert data.longest == max(len(row.tokens) for row in examples_at(examples, range(3)))
    # The same as held in memory.
    every = [examples_at(examples, [place]) for place in range(3)]
    held = ExampleSet.from_examples(
        [one.tokens.tolist() for one, _ in every],
        [one.trained.tolist() for one, _ in every],
        rejected=[(other.tokens.tolist(), other.trained.tolist()) for _, other in every],
    )
    assert held.lengths.tolist() == examples.lengths.tolist()
    assert held.label_counts.tolist() == examples.label_counts.tolist()
    assert [held.rejected(n)[0].tolist() for n in range(3)] == [other.tokens.tolist() for _, other in every]  # type: ignore[index]


@settings(max_examples=200, deadline=None)
@given(prompt=st.integers(2, 60), answers=st.lists(st.integers(1, 60), min_size=1, max_size=2), room=st.integers(8, 64))
def test_the_prompt_is_cut_before_answers_are(prompt: int, answers: list[int], room: int) -> None:
    kept, *lengths = kept_lengths(prompt, answers, 1, room)
    assert kept + max(lengths) <= room
    assert all(1 <= length <= answer for length, answer in zip(lengths, answers, strict=True))
    if prompt + max(answers) <= room:
        assert [kept, *lengths] == [prompt, *answers]
    elif lengths != answers:
        assert kept == min(prompt, room // 2)
    else:
        assert kept == room - max(answers) or kept == room // 2


def test_a_long_prompt_loses_its_beginning_but_not_what_opens_every_text(
    write_lines: Write, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"prompt": "a" * 40 + "z", "chosen": "yes", "rejected": "certainly not"}] * 2
    data = prepare(recipe(write_lines(rows), PAIR, max_tokens=40), tokenizer, tmp_path / "data")
    assert data.truncated == 2
    (prompt, better), (other_prompt, worse) = texts(data.all_examples("train"), 0, tokenizer)
    assert prompt == other_prompt
    # As long as the longer answer lets it be: its letters, <|end|> and a line's end.
    assert (better, worse) == ("yes<|end|>\n", "certainly not<|end|>\n")
    assert data.longest == 40
    assert prompt == "<s>" + ("<|start|>user\n" + "a" * 40 + "z<|end|>\n<|start|>assistant\n")[-len(prompt) + 3 :]


def test_answers_that_differ_too_late_are_left_out(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    rows = [*pairs(4), {"prompt": "q", "chosen": "s" * 90 + "a", "rejected": "s" * 90 + "b"}]
    data = prepare(recipe(write_lines(rows), PAIR, max_tokens=64), tokenizer, tmp_path / "data")
    assert data.dropped == {SAME_WHEN_CUT: 1}
    assert data.totals()["train"] == 4


def test_each_annotator_is_a_client_and_nobody_is_tested_on_what_another_has_trained_on(
    write_lines: Write, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"q{n}", "one": "a", "two": "b", "ann": 1 + n % 2, "bob": 2 - n % 2, "eve": 0 if n < 5 else 1}
        for n in range(20)
    ]
    fields = {**LABELLED, "preferred": ["ann", "bob", "eve"]}
    made = recipe(
        write_lines(rows),
        fields,
        partition={"kind": "by_key", "key": "annotator"},
        split={"validation": 0.2, "test": 0.3},
    )
    allocation = allocate(made)
    assert allocation.clients == ["ann", "bob", "eve"]
    assert allocation.dropped == {"eve": {TIE: 5}}
    parts: dict[str, set[str]] = {}
    better: dict[tuple[str, str | None], str] = {}
    for example in allocation.examples:
        parts.setdefault(example.origin, set()).add(example.split)
        better[example.origin, example.owner] = example.content.answers[0][0].content  # type: ignore[union-attr]
    assert all(len(splits) == 1 for splits in parts.values())
    assert all(better[origin, "ann"] != better[origin, "bob"] for origin in parts)
    assert {better[key] for key in better if key[1] == "eve"} == {"a"}
    assert prepare(made, tokenizer, tmp_path / "data").totals()["train"] == 10 + 10 + sum(
        example.owner == "eve" and example.split == "train" for example in allocation.examples
    )
    with pytest.raises(UserError, match=r"has a field 'annotator' already"):
        allocate(recipe(write_lines([{**row, "annotator": "x"} for row in rows], "named.jsonl"), fields))


def test_kto_takes_pairs_apart_and_keeps_them_in_one_split(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    made = recipe(write_lines(pairs(10)), PAIR, "kto", split={"validation": 0, "test": 0.4})
    assert [e.origin for e in allocate(made).examples][::2] == [e.origin for e in allocate(made).examples][1::2]
    data = prepare(made, tokenizer, tmp_path / "data")
    assert data.totals() == {"train": 12, "validation": 0, "test": 8}
    examples = data.all_examples("train")
    assert [examples.desirable(place) for place in range(12)] == [True, False] * 6
    assert examples.rejected(0) is None
    assert texts(examples, 1, tokenizer)[0][1].startswith("no ")
    assert [one.key for one in examples_at(data.examples("client-001", "train"), [0])] != [None]


def test_single_answers_are_judged(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{n}", "response": "r", "good": good} for n, good in enumerate([True, False, "yes", 0, 1, None])
    ]
    data = prepare(recipe(write_lines(rows), JUDGED, "kto"), tokenizer, tmp_path / "data")
    assert data.dropped == {NOT_JUDGED: 1}
    description = describe(data)
    assert description["preferences"] == {"desirable": 3, "undesirable": 2}
    said = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [{"said": [*said, *said], "good": False}] * 3
    data = prepare(
        recipe(write_lines(rows, "said.jsonl"), {"messages": "said", "desirable": "good"}, "kto"), tokenizer, tmp_path
    )
    # The last answer is the one that is judged.
    ((before, judged),) = texts(data.all_examples("train"), 0, tokenizer)
    assert before.count("assistant") == 2
    assert judged == "a<|end|>\n"


def test_dialogues_can_be_answers_to_learn(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
    rows = [{"prompt": text, "chosen": "See you", "whole": f"{text} See you"}] * 3
    source = str(write_lines(rows))
    found = []
    for number, fields in enumerate([{"messages": "whole"}, {"prompt": "prompt", "response": "chosen"}]):
        section = {"source": source, "fields": {**fields, "dialogue": "hh"}, "partition": {"kind": "iid", "clients": 1}}
        made = validate_recipe({"data": section, "federation": {"clients_per_round": 1}})
        data = prepare(made, tokenizer, tmp_path / str(number))
        found.append(tokenizer.decode(data.all_examples().tokens(0)))
    assert found[0] == found[1]
    assert found[0].endswith("<|start|>assistant\nSee you<|end|>\n")


def test_flipped_preferences_are_the_other_way_round(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    honest = prepare(recipe(write_lines(pairs(4)), PAIR), tokenizer, tmp_path / "data").all_examples()
    flipped = FlippedPreferences(honest).subset([1, 3])
    for place, at in enumerate([1, 3]):
        assert texts(flipped, place, tokenizer) == texts(honest, at, tokenizer)[::-1]
    kept = {one.key for one in examples_at(honest, range(4))}
    assert not kept & {one.key for one in examples_at(flipped, range(2))}
    source = write_lines(pairs(4), "apart.jsonl")
    apart = prepare(recipe(source, PAIR, "kto"), tokenizer, tmp_path / "data").all_examples()
    assert [FlippedPreferences(apart).desirable(place) for place in range(4)] == [False, True] * 2


def test_what_is_stored_depends_on_no_number_of_the_loss(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    source = write_lines(pairs(4))
    made = [prepare(recipe(source, PAIR, loss), tokenizer, tmp_path) for loss in ("sigmoid", "ipo", "simpo", "kto")]
    assert len({data.fingerprint for data in made[:3]}) == 1
    assert made[3].fingerprint != made[0].fingerprint


def test_the_description_says_how_often_the_longer_answer_is_preferred(
    write_lines: Write, tokenizer: Any, tmp_path: Path
) -> None:
    data = prepare(
        recipe(write_lines([*pairs(3), {"prompt": "q", "chosen": "n", "rejected": "no"}]), PAIR), tokenizer, tmp_path
    )
    found = describe(data)["preferences"]
    # <|end|> and a line's end follow every answer.
    assert found == {"pairs": 4, "chosen_tokens": 7, "rejected_tokens": 6, "chosen_longer": 3}
    console = Console(width=200, record=True)
    console.print(render(describe(data)))
    told = console.export_text()
    assert "Tokens of an answer: median 7 chosen, 6 rejected; in 75.0 % of the pairs the chosen one is longer" in told


def test_pairs_that_are_left_out_are_counted_by_client(write_lines: Write, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{**row, "who": "ann" if n % 2 else "bob"} for n, row in enumerate(pairs(6))]
    rows.append({"prompt": "q", "chosen": "a", "rejected": "a", "who": "bob"})
    made = recipe(write_lines(rows), PAIR, partition={"kind": "by_key", "key": "who"})
    data: FederatedData = prepare(made, tokenizer, tmp_path / "data")
    assert data.dropped_by_client == {"bob": {SAME_ANSWERS: 1}}
    assert ANSWER_CUT_OFF not in data.dropped
    assert json.loads(json.dumps(describe(data)))["totals"]["train"] == 6


@pytest.mark.parametrize(
    ("fields", "told", "hint"),
    [
        ({**PAIR, "chosen": "chosn"}, "data.fields.chosen: ", "did you mean 'chosen'?"),
        (
            {"prompt": "prompt", "response_a": "chosen", "response_b": "rejected", "preferred": ["prompt", "rejectet"]},
            "data.fields.preferred.1: ",
            "did you mean 'rejected'?",
        ),
    ],
)
def test_fields_that_are_not_there_are_named(write_lines: Write, fields: dict[str, Any], told: str, hint: str) -> None:
    with pytest.raises(UserError) as refused:
        allocate(recipe(write_lines(pairs(3)), fields))
    assert refused.value.message.startswith(told)
    assert refused.value.hint == hint
