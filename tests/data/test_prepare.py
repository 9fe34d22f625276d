from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

import fedloom
import fedloom.data.phrasing as phrasing
from fedloom.data import FederatedData, allocate, describe, prepare, render
from fedloom.data.allocation import effective_data
from fedloom.data.shards import ExampleSet
from fedloom.errors import UserError
from fedloom.recipe import Recipe, load_recipe, recipe_yaml, validate_recipe

Write = Callable[..., Path]
FIELDS = {"prompt": "q", "response": "a"}
BY_CLIENT = {"kind": "by_key", "key": "client"}


def rows(clients: int = 4, each: int = 10) -> list[dict[str, Any]]:
    return [
        {"q": f"question {c} {n}", "a": f"answer {c} {n}", "client": f"c{c}", "topic": "xyz"[n % 3]}
        for c in range(clients)
        for n in range(each)
    ]


def recipe(source: object, clients_per_round: int = 2, **data: Any) -> Recipe:
    section = {"source": str(source) if isinstance(source, Path) else source, "fields": FIELDS}
    section |= {"template": "plain", "partition": BY_CLIENT, **data}
    return validate_recipe({"data": section, "federation": {"clients_per_round": clients_per_round}})


def texts(examples: ExampleSet, tokenizer: Any) -> list[str]:
    return [
        tokenizer.decode(examples.tokens(n)[examples.trained(n)], skip_special_tokens=True)
        for n in range(len(examples))
    ]


def everything(data: FederatedData) -> list[ExampleSet]:
    names = [*data.clients, *data.unseen]
    sets = [data.examples(name, split) for name in names for split in ("train", "validation", "test")]
    common = data.global_examples("test")
    return [*sets, common] if common is not None else sets


PARTITIONS = [
    BY_CLIENT,
    {"kind": "iid", "clients": 5},
    {"kind": "dirichlet", "clients": 5, "key": "topic", "alpha": 0.3},
    {"kind": "quantity", "clients": 5, "alpha": 0.3},
]


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("unseen", [0, 2])
@pytest.mark.parametrize("common", [None, {"fraction": 0.1}, {"where": {"client": "c0", "topic": "x"}}])
def test_every_record_is_used_exactly_once(
    tmp_path: Path, write_lines: Write, tokenizer: Any, partition: dict, unseen: int, common: dict | None
) -> None:
    path = write_lines(rows())
    made = recipe(path, 1, partition=partition, unseen_clients=unseen, global_test=common)
    data = prepare(made, tokenizer, tmp_path / "shards")
    found = [text for one in everything(data) for text in texts(one, tokenizer)]
    assert sorted(found) == sorted(row["a"] for row in rows())
    assert list(data.clients) == sorted(data.clients)
    assert len(data.unseen) == unseen
    for name in data.unseen:
        assert len(data.examples(name, "train")) == len(data.examples(name, "validation")) == 0
        assert len(data.examples(name, "test")) > 0
    assert (data.global_examples() is None) == (common is None)
    sums = [sum(len(data.examples(c, s)) for c in data.clients) for s in ("train", "validation", "test")]
    assert list(data.totals().values()) == sums
    assert len(data.all_examples()) == sum(sums)
    assert [len(data.all_examples(s)) for s in ("train", "validation", "test")] == sums
    for split in ("train", "validation", "test"):
        one_by_one = ExampleSet.concatenate([data.examples(name, split) for name in data.clients])
        assert data.all_examples(split)._indices.tolist() == one_by_one._indices.tolist()


def test_by_key_clients_hold_their_own_records_in_source_order(
    tmp_path: Path, write_lines: Write, tokenizer: Any
) -> None:
    data = prepare(recipe(write_lines(rows()), split={"validation": 0, "test": 0}), tokenizer, tmp_path / "s")
    for client in data.clients:
        expected = [row["a"] for row in rows() if row["client"] == client]
        assert texts(data.examples(client, "train"), tokenizer) == expected


def test_a_client_does_not_depend_on_the_others(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    whole = prepare(recipe(write_lines(rows(6), "a.jsonl")), tokenizer, tmp_path / "s")
    part = prepare(recipe(write_lines(rows(2), "b.jsonl")), tokenizer, tmp_path / "s")
    for split in ("train", "validation", "test"):
        assert texts(whole.examples("c1", split), tokenizer) == texts(part.examples("c1", split), tokenizer)


def test_equal_data_is_reopened_and_different_data_rebuilt(
    tmp_path: Path, write_lines: Write, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = phrasing.tokenize
    monkeypatch.setattr(phrasing, "tokenize", lambda *args: calls.append(1) or real(*args))
    path = write_lines(rows())
    first = prepare(recipe(path), tokenizer, tmp_path / "s")
    again = prepare(recipe(path, 3), tokenizer, tmp_path / "s")
    assert len(calls) == 1
    assert first.fingerprint == again.fingerprint
    tokenizer("cut", truncation=True, max_length=2)
    assert prepare(recipe(path), tokenizer, tmp_path / "s").fingerprint == first.fingerprint
    for changed in (
        recipe(path, max_tokens=100),
        recipe(path, template="alpaca"),
        recipe(path).model_copy(update={"seed": 1}),
    ):
        assert prepare(changed, tokenizer, tmp_path / "s").fingerprint != first.fingerprint
    write_lines(rows(5))
    assert len(prepare(recipe(path), tokenizer, tmp_path / "s").clients) == 5
    assert len(calls) == 5


def test_template_file_is_part_of_the_fingerprint(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    template = tmp_path / "t.jinja"
    made = recipe(write_lines(rows()), template=str(template))
    seen = set()
    for end in ("</s>", "!</s>"):
        template.write_text("{% for m in messages %}{{ m.content }}" + end + "{% endfor %}")
        seen.add(prepare(made, tokenizer, tmp_path / "s").fingerprint)
    assert len(seen) == 2


def test_resolved_recipe_means_the_same(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    made = recipe(write_lines(rows()))
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(made))
    first, again = (prepare(one, tokenizer, tmp_path / "s") for one in (made, load_recipe(path)))
    assert first.fingerprint == again.fingerprint


def test_dropped_and_truncated_are_counted(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    extra = [
        {"q": "question", "a": "", "client": "c1"},
        {"q": "question", "a": None, "client": "c2"},
        {"q": "", "a": "x", "client": "c2"},
        {"q": "long " * 50, "a": "x", "client": "c2"},
        {"q": "question", "a": "long " * 50, "client": "c3"},
    ]
    made = recipe(write_lines([*rows(), *extra]), max_tokens=40)
    data = prepare(made, tokenizer, tmp_path / "s")
    assert data.dropped == {"empty prompt": 1, "empty response": 2, "no answer within max_tokens": 1}
    assert data.dropped_by_client == {
        "c1": {"empty response": 1},
        "c2": {"empty prompt": 1, "empty response": 1, "no answer within max_tokens": 1},
    }
    assert data.truncated == 1
    assert sum(map(len, everything(data))) == 41
    assert max(one.lengths.max() for one in everything(data) if len(one)) == 40
    drawn = prepare(recipe(made.data.source, partition={"kind": "iid", "clients": 4}), tokenizer, tmp_path / "s")
    assert drawn.dropped_by_client == {"": {"empty prompt": 1, "empty response": 2}}


def test_client_without_training_examples_is_named(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    keyed = [{"q": "q", "a": "a", "client": c, "split": "train"} for c in ("a", "b")]
    bad = [{"q": "q", "a": a, "client": "x", "split": "test"} for a in ("", "", "answer")]
    path = write_lines([*keyed, *bad])
    with pytest.raises(
        UserError,
        match=r"client 'x' has no training examples \(3 records: 2 dropped as empty response, 1 test\)",
    ):
        allocate(recipe(path, split={"key": "split"}))
    keyed.append({"q": "long " * 50, "a": "a", "client": "y", "split": "train"})
    path = write_lines(keyed)
    made = recipe(path, split={"key": "split"}, max_tokens=30)
    with pytest.raises(UserError, match=r"'y' .* \(1 record: 1 dropped as no answer within max_tokens\)"):
        prepare(made, tokenizer, tmp_path / "s")


def test_mistakes_surface_before_anything_is_tokenised(
    tmp_path: Path, write_lines: Write, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phrasing, "tokenize", lambda *args: pytest.fail("tokenised"))
    path = write_lines(rows())
    cases = [
        (recipe(path, 5), "clients_per_round: 5 is above the number of training clients, 4"),
        (recipe(path, 4, unseen_clients=1), "clients_per_round: 4 is above .* clients, 3"),
        (recipe(path, unseen_clients=4), "data.unseen_clients: 4 of 4 clients leaves none"),
        (
            recipe(path, fields={"prompt": "q", "response": "answer"}),
            "data.fields.response: .*rows.jsonl:1 has",
        ),
        (recipe(path, partition={"kind": "by_key", "key": "clients"}), "data.partition.key: .*'client'"),
        (recipe(path, split={"key": "split"}), "data.split.key: .* no field 'split'"),
        (recipe(path, category="kind", global_test={"fraction": 0.5}), "data.category: .* no field 'kind'"),
        (recipe(path, global_test={"where": {"klient": 1}}), "data.global_test.where: .*'client'"),
        (recipe(path, global_test={"source": "no.jsonl"}), "data.global_test.source: no such file: no.jsonl"),
        (recipe(path, template="chatt"), "data.template: 'chatt' is not one of"),
        (recipe(path, partition={"kind": "iid", "clients": 41}), "41 clients of at least 1 record need 41"),
    ]
    for made, message in cases:
        with pytest.raises(UserError, match=message):
            prepare(made, tokenizer, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_cohort_is_checked_on_stored_data_too(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    path = write_lines(rows())
    prepare(recipe(path), tokenizer, tmp_path / "s")
    with pytest.raises(UserError, match="clients_per_round: 5"):
        prepare(recipe(path, 5), tokenizer, tmp_path / "s")


def test_files_as_clients(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    for name in ("north", "south"):
        write_lines(rows(1), f"sites/{name}.jsonl")
    data = prepare(recipe(tmp_path / "sites", partition={"kind": "files"}), tokenizer, tmp_path / "s")
    assert list(data.clients) == ["north", "south"]


def test_global_test_from_a_file_with_its_own_validation_part(
    tmp_path: Path, write_lines: Write, tokenizer: Any
) -> None:
    local = write_lines([{**row, "split": "train"} for row in rows()], "local.jsonl")
    splits = ["val"] * 3 + ["test"] * 7
    common = [{"q": "q", "a": f"g{n}", "split": s, "topic": "x"} for n, s in enumerate(splits)]
    made = recipe(
        local,
        split={"key": "split"},
        category="topic",
        global_test={"source": str(write_lines(common, "common.jsonl"))},
    )
    data = prepare(made, tokenizer, tmp_path / "s")
    validation, test = data.global_examples("validation"), data.global_examples("test")
    assert validation is not None
    assert test is not None
    assert texts(validation, tokenizer) == ["g0", "g1", "g2"]
    assert texts(test, tokenizer) == [f"g{n}" for n in range(3, 10)]
    assert test.categories == ["x"] * 7


def test_one_global_set_serves_both(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    data = prepare(recipe(write_lines(rows()), global_test={"fraction": 0.2}), tokenizer, tmp_path / "s")
    both = [texts(data.global_examples(split), tokenizer) for split in ("validation", "test")]
    assert both[0] == both[1]
    assert len(both[0]) == 8


def test_template_errors_name_the_record(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% if 'c2' in messages[0].content %}{{ raise_exception('no') }}{% endif %}x")
    made = recipe(write_lines([{**r, "q": r["client"]} for r in rows()]), template=str(template))
    with pytest.raises(UserError, match=r"rows.jsonl:21: data.template: .* refuses this conversation: no"):
        prepare(made, tokenizer, tmp_path / "s")


def test_unknown_client(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    data = prepare(recipe(write_lines(rows())), tokenizer, tmp_path / "s")
    with pytest.raises(UserError, match="client: 'c9' is not one of: c0, c1"):
        data.examples("c9", "train")


def pocket(seed: int) -> list[dict[str, str]]:
    made = []
    for client in ("c0", "c1", "c2", "c3", "all-families"):
        for n in range(10):
            split = ("train", "train", "validation", "test")[n % 4 if client != "all-families" else 2 + n % 2]
            texts = {"prompt": f"{client} {n}", "response": f"{client} answer {n} {seed}"}
            made.append({**texts, "family": "xy"[n % 2], "client": client, "split": split})
    return made


def test_pocket_tasks_bring_their_defaults(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fedloom.data.pocket_tasks", SimpleNamespace(pocket_rows=pocket))
    made = validate_recipe({})
    data = prepare(made, tokenizer, tmp_path / "s")
    assert list(data.clients) == ["c0", "c1", "c2", "c3"]
    assert data.checkable
    assert data.totals() == {"train": 24, "validation": 8, "test": 8}
    common = data.global_examples("test")
    assert common is not None
    assert len(common) == 5
    assert common.categories == ["y"] * 5
    assert effective_data(load_recipe(_saved(tmp_path, made)).data) == effective_data(made.data)

    other = validate_recipe({"data": {"global_test": {"where": {"family": "x"}}}})
    again = prepare(other, tokenizer, tmp_path / "s")
    assert list(again.clients) == ["c0", "c1", "c2", "c3"]
    assert [len(again.global_examples(split) or []) for split in ("validation", "test")] == [8, 12]


def test_pocket_tasks_and_tokenizer_as_shipped(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(fedloom.__file__).parent / "model" / "pocket")
    data = prepare(validate_recipe({}), tokenizer, tmp_path)
    assert "all-families" not in data.clients
    assert data.dropped == {}
    assert data.truncated == 0
    common = data.global_examples()
    assert common is not None
    assert len(set(common.categories or [])) > 1
    for n in range(len(common)):
        # One answer, at the end, with its end-of-turn token: what exact match is measured on.
        mask = common.trained(n)
        assert mask[-1]
        assert np.flatnonzero(np.diff(mask.astype(int))).size == 1
        assert tokenizer.convert_ids_to_tokens([common.tokens(n)[-1]]) == [tokenizer.eos_token]


def _saved(folder: Path, made: Recipe) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(recipe_yaml(made))
    return path


@pytest.mark.parametrize("partition", PARTITIONS)
def test_description_counts_what_is_there(tmp_path: Path, write_lines: Write, tokenizer: Any, partition: dict) -> None:
    extra = {"q": "q", "a": "", "client": "c0", "topic": "x"}
    made = recipe(
        write_lines([*rows(), extra]), 1, partition=partition, category="topic", unseen_clients=1,
        global_test={"fraction": 0.1},
    )  # fmt: skip
    data = prepare(made, tokenizer, tmp_path / "s")
    told = describe(data)
    assert told["totals"] == data.totals()
    assert [row["client"] for row in told["clients"]["rows"]] == list(data.clients)
    for row in told["clients"]["rows"]:
        sets = [data.examples(row["client"], split) for split in ("train", "validation", "test")]
        assert [row["train"], row["validation"], row["test"]] == [len(one) for one in sets]
        joined = ExampleSet.concatenate(sets)
        assert row["tokens"]["max"] == joined.lengths.max()
        assert row["label_tokens"] == joined.label_counts.sum()
        assert row["top"] == dict(Counter(joined.categories).most_common(3))
    assert told["dropped"] == {"empty response": 1}
    assert told["global_test"] == {"validation": 4, "test": 4}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(told))
    printed = capture.get()
    assert all(word in printed for word in (*data.clients, "topic", "Dropped: 1 records, empty response"))
    assert "Held out of training: 1 clients" in printed


def test_many_clients_are_shown_from_both_ends(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    data = prepare(recipe(write_lines(rows(30, 3))), tokenizer, tmp_path / "s")
    told = describe(data, shown_at_each_end=2)
    names = list(data.clients)
    assert [row["client"] for row in told["clients"]["rows"]] == [*names[:2], *names[-2:]]
    assert told["clients"]["number"] == 30
    assert told["clients"]["training_examples"] == dict.fromkeys(
        ("min", "quarter", "median", "three_quarters", "max"), 3
    )


def test_opening_makes_no_object_a_client(tmp_path: Path, write_lines: Write, tokenizer: Any) -> None:
    data = prepare(recipe(write_lines(rows(50, 2))), tokenizer, tmp_path / "s")
    held = vars(data._contents)
    assert isinstance(held["bounds"].base, np.memmap)
    assert isinstance(held["examples"].tokens.base, np.memmap)
    assert not any(isinstance(value, list | tuple) and len(value) > 10 for value in held.values())


def test_small_natural_clients_are_left_out_and_counted(write_lines: Write) -> None:
    few = [{"q": "a", "a": "b", "client": "few", "topic": "x"}] * 2
    empty = [{"q": "a", "a": "", "client": "empty", "topic": "x"}] * 5
    path = write_lines([*rows(2), *few, *empty])
    partition = {**BY_CLIENT, "min_examples": 3}
    allocation = allocate(recipe(path, partition=partition))
    assert allocation.clients == ["c0", "c1"]
    # Records that nothing could be learnt from do not make a client larger.
    assert allocation.dropped[""] == Counter({"client below min_examples": 2, "empty response": 5})
    with pytest.raises(UserError, match=r"data\.partition\.min_examples: no client has 11 records"):
        allocate(recipe(path, partition={**BY_CLIENT, "min_examples": 11}))
