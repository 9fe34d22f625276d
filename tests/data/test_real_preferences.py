"""Preferences of real data: every dialogue of HH-RLHF, and the clients that other files have in them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from fedloom.data import allocate, prepare
from fedloom.data.dialogue import continued, joined, spoken, turns_of
from fedloom.data.preferences import SAME_ANSWERS, TIE
from fedloom.data.tokenizing import ANSWER_CUT_OFF
from fedloom.model.example_sets import examples_at
from fedloom.recipe import Recipe, validate_recipe

PAIR = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
PANDALM = {
    "prompt": "instruction",
    "context": "input",
    "response_a": "response1",
    "response_b": "response2",
    "preferred": ["annotator1", "annotator2", "annotator3"],
}


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def recipe(path: Path, fields: dict[str, Any], **data: Any) -> Recipe:
    section = {"source": str(path), "fields": fields, "template": "alpaca", **data}
    return validate_recipe({"data": section, "task": {"kind": "dpo"}, "federation": {"clients_per_round": 2}})


def test_every_dialogue_of_hh_rlhf_joins_to_its_text(shared: Path) -> None:
    held = rows(shared / "data/preference/hh_harmless_base.jsonl.gz")
    assert len(held) == 1812
    for row in held:
        # The file keeps the halves apart where they part, without the space that HH-RLHF has there.
        chosen, rejected = (continued(row["prompt"], row[half]) for half in ("chosen", "rejected"))
        assert chosen == f"{row['prompt']} {row['chosen']}"
        assert joined(turns_of(chosen, "here")) == chosen
        assert joined(turns_of(rejected, "here")) == rejected
        if row["same_prompt"]:
            said, other = spoken(turns_of(chosen, "here")), spoken(turns_of(rejected, "here"))
            assert said[:-1] == other[:-1]
            assert [said[-1], other[-1]] == [("assistant", row["chosen"]), ("assistant", row["rejected"])]


def test_hh_rlhf_reads_alike_however_it_is_kept(shared: Path, tmp_path: Path) -> None:
    path = shared / "data/preference/hh_harmless_base.jsonl.gz"
    whole = tmp_path / "whole.jsonl"
    with whole.open("w", encoding="utf-8") as file:
        for row in rows(path):
            file.write(
                json.dumps({half: continued(row["prompt"], row[half]) for half in ("chosen", "rejected")}) + "\n"
            )
    partition = {"kind": "iid", "clients": 4}
    kept, joined_ones = (
        allocate(recipe(source, {**fields, "dialogue": "hh"}, partition=partition))
        for source, fields in ((path, PAIR), (whole, {"chosen": "chosen", "rejected": "rejected"}))
    )
    assert [one.content for one in kept.examples] == [one.content for one in joined_ones.examples]
    assert kept.dropped == joined_ones.dropped == {"": {"empty response": 3}}
    assert len(kept.examples) == 1809


def test_ultrafeedback_in_tokens(shared: Path, tmp_path: Path) -> None:
    path = shared / "data/preference/ultrafeedback_1k.jsonl.gz"
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers/gpt2")
    made = recipe(path, PAIR, max_tokens=512, partition={"kind": "iid", "clients": 5})
    data = prepare(made, tokenizer, tmp_path)
    same = sum(row["chosen"] == row["rejected"] for row in rows(path))
    assert data.dropped[SAME_ANSWERS] == same
    assert ANSWER_CUT_OFF not in data.dropped
    examples = data.all_examples()
    assert len(examples) + sum(data.dropped.values()) + len(data.global_examples() or []) == 1000
    assert data.longest <= 512
    for place in range(0, len(examples), 25):
        chosen, rejected = examples_at(examples, [place])
        start = int(chosen.trained.argmax())
        assert start == int(rejected.trained.argmax()) >= 1
        assert np.array_equal(chosen.tokens[:start], rejected.tokens[:start])
        assert examples.lengths[place] == len(chosen.tokens) + len(rejected.tokens)
        assert not np.array_equal(chosen.tokens[start:], rejected.tokens[start:])


def test_pandalm_has_an_annotator_as_each_client(shared: Path) -> None:
    path = shared / "data/preference/pandalm_human.jsonl.gz"
    allocation = allocate(recipe(path, PANDALM, partition={"kind": "by_key", "key": "annotator"}))
    assert allocation.clients == ["annotator1", "annotator2", "annotator3"]
    held = rows(path)
    for client in allocation.clients:
        assert allocation.dropped[client][TIE] == sum(row[client] == 0 for row in held)
        used = sum(example.owner == client for example in allocation.examples)
        assert used + sum(allocation.dropped[client].values()) == 999
    # What two annotators saw alike stands in one part of the data, and who disagrees prefers the other answer.
    parts: dict[str, set[str]] = {}
    better: dict[str, dict[str | None, str]] = {}
    for example in allocation.examples:
        parts.setdefault(example.origin, set()).add(example.split)
        better.setdefault(example.origin, {})[example.owner] = example.content.answers[0][0].content  # type: ignore[union-attr]
    assert all(len(splits) == 1 for splits in parts.values())
    disputed = [row for row in held if {row["annotator1"], row["annotator2"]} == {1, 2}]
    seen = [better[origin] for origin in better if len(better[origin]) == 3 and len(set(better[origin].values())) > 1]
    assert disputed
    assert seen


@pytest.mark.parametrize(
    ("file", "key", "clients"),
    [
        ("alpaca_eval_gpt4_pairs", "compared_model", 20),
        ("alpaca_eval_gpt4_pairs", "dataset", 5),
        ("llmbar", "subset", 5),
    ],
)
def test_pairs_by_where_they_come_from(shared: Path, file: str, key: str, clients: int) -> None:
    path = shared / f"data/preference/{file}.jsonl.gz"
    allocation = allocate(recipe(path, PAIR, partition={"kind": "by_key", "key": key}))
    assert len(allocation.clients) == clients
    found = Counter(example.owner for example in allocation.examples)
    held = Counter(row[key] for row in rows(path))
    assert all(found[client] + sum(allocation.dropped.get(client, {}).values()) == held[client] for client in held)
