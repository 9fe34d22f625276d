"""Real data: what the partitions the field uses give, on files outside the repository."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from fedloom.data import allocate, prepare
from fedloom.recipe import validate_recipe

DOLLY = {"prompt": "instruction", "context": "context", "response": "response"}
SUPER_NI = {"prompt": "definition", "context": "input", "response": "output"}


def test_dolly_by_client(shared: Path) -> None:
    path = shared / "data/instruct/dolly15k.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        held = Counter(json.loads(line)["client"] for line in lines)
    data = {
        "source": str(path),
        "fields": DOLLY,
        "template": "alpaca",
        "partition": {"kind": "by_key", "key": "client"},
        "global_test": {"where": {"client": -1}},
        "category": "category",
    }
    allocation = allocate(validate_recipe({"data": data}))
    assert allocation.clients == [str(client) for client in range(10)]
    assert sum(example.owner is None for example in allocation.examples) == held[-1]
    assert allocation.dropped == {}
    assert Counter(e.owner for e in allocation.examples if e.owner) == {
        str(client): number for client, number in held.items() if client != -1
    }


@pytest.mark.parametrize("folder", ["models/stories260K", "tokenizers/pythia"])
def test_super_natural_instructions_by_task(shared: Path, tmp_path: Path, folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / folder)
    data = {
        "source": str(shared / "data/instruct/superni_train.jsonl.gz"),
        "fields": SUPER_NI,
        "template": "alpaca",
        "max_tokens": 2048,
        "partition": {"kind": "by_key", "key": "task"},
        "global_test": {"source": str(shared / "data/eval/superni_test.jsonl.gz")},
        "category": "category",
    }
    prepared = prepare(validate_recipe({"data": data}), tokenizer, tmp_path)
    assert len(prepared.clients) == 100
    assert prepared.totals() == {"train": 2400, "validation": 300, "test": 300}
    assert prepared.dropped == {}
    assert prepared.truncated == 0
    common = prepared.global_examples()
    assert common is not None
    assert len(common) == 400
    answer = tokenizer.decode(common.tokens(0)[common.trained(0)], skip_special_tokens=True)
    with gzip.open(shared / "data/eval/superni_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert answer == json.loads(next(lines))["output"]


def test_dirichlet_over_200_clients(shared: Path) -> None:
    partition: dict[str, Any] = {"kind": "dirichlet", "clients": 200, "key": "task", "alpha": 0.5}
    data = {
        "source": str(shared / "data/instruct/superni_train.jsonl.gz"),
        "fields": SUPER_NI,
        "template": "plain",
        "partition": partition,
    }
    allocation = allocate(validate_recipe({"data": data}))
    sizes = Counter(example.owner for example in allocation.examples)
    assert len(sizes) == len(allocation.clients) == 200
    assert sizes.total() == 3000
    assert min(sizes.values()) >= 3
