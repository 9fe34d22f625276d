"""Many clients: those at work are in memory, the others on disk, and results stay what they were."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import psutil
import pytest
import torch
import yaml

import fedloom
from fedloom.data.federated import FederatedData
from fedloom.data.mapped import map_values, release_pages
from fedloom.data.shard_files import ShardContents, write_shards
from fedloom.data.shards import ExampleArrays, count_labels
from fedloom.evaluation import evaluator, passes
from fedloom.evaluation.evaluator import Evaluator
from fedloom.evaluation.scoring import score
from fedloom.model.lanes import Lanes
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import open_session
from tests.federated_runs import recipe, write_examples

POPULATION = 20_000
DRAWN = [
    ["client-03708", "client-08849", "client-10559", "client-17511"],
    ["client-10143", "client-17962", "client-18663", "client-19706"],
    ["client-05955", "client-06117", "client-11244", "client-12622"],
]


def population(folder):
    """Shards of clients with two training examples and a test example each, three tokens long."""
    examples = 3 * POPULATION
    trained = np.tile(np.array([0, 1, 1], dtype=np.uint8), examples)
    offsets = 3 * np.arange(examples + 1, dtype=np.int64)
    tokens = np.arange(3 * examples, dtype=np.int64) % 500
    contents = ShardContents(
        examples=ExampleArrays(tokens, trained, offsets, count_labels(trained, offsets)),
        clients=[f"client-{number:05d}" for number in range(POPULATION)],
        unseen=[],
        bounds=3 * np.arange(POPULATION)[:, None] + np.array([0, 2, 2, 3]),
        global_bounds=np.full(3, examples),
        key_codes=np.full(examples, -1, dtype=np.int32),
        key_values=[],
        meta={"checkable": True},
    )
    write_shards(folder, contents, 500)
    return FederatedData(folder)


@pytest.mark.long
def test_twenty_thousand_clients_through_the_command_line(tmp_path):
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number in range(POPULATION):
            for word in ("stone", "lamp"):
                row = {"prompt": f"say {word}", "response": word, "owner": f"client-{number:05d}"}
                file.write(json.dumps(row) + "\n")
    values = recipe(
        tmp_path / "rows.jsonl",
        data={"template": "plain", "split": {"validation": 0.0, "test": 0.5}},
        federation={"rounds": 3, "clients_per_round": 4},
        evaluation={"max_clients": 25, "every": 1},
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "fedloom", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True)
    events = read_events(tmp_path / "run" / "events.jsonl")
    assert events[0]["clients"] == events[0]["examples"]["train"] == events[0]["examples"]["test"] == POPULATION
    # Seed 0's draws since the first version: a change of them would change everybody's results.
    assert [event["clients"] for event in events if event["event"] == "round"] == DRAWN
    tested = [list(event["result"]["clients"]) for event in events if event["event"] == "evaluation"]
    assert len(tested) == 4
    assert len(set(tested[0])) == 25
    assert all(names == tested[0] for names in tested)


def test_nothing_is_held_for_each_client(tmp_path):
    data = population(tmp_path / "shards")
    checked = load_recipe(recipe(tmp_path / "rows.jsonl"))
    tracemalloc.start()
    try:
        tester = Evaluator(None, None, checked, data, Lanes(1, torch.device("cpu")))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(tester.own) == POPULATION
    # A row number each; a single object would take more than fifty bytes.
    assert held < 10 * POPULATION + 20_000


def test_pages_that_were_read_are_let_go_and_read_again(tmp_path):
    values = np.arange(8 << 20, dtype=np.int64)
    values.tofile(tmp_path / "values.bin")
    mapped, process = map_values(tmp_path / "values.bin", np.int64), psutil.Process()
    assert int(mapped.sum()) == int(values.sum())
    before = process.memory_info().rss
    release_pages([mapped, values])
    assert before - process.memory_info().rss > 0.9 * values.nbytes
    assert np.array_equal(mapped, values)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    values = recipe(
        write_examples(folder / "words.jsonl"), federation={"clients_per_round": 2}, evaluation={"exact_match": True}
    )
    values["data"] |= {"global_test": {"fraction": 0.1}, "unseen_clients": 2, "category": "owner"}
    return open_session(load_recipe(values), folder)


def test_evaluation_in_small_passes_equals_one_pass(session, monkeypatch):
    adapter = session.grouped.initial(3)
    adapter = {name: value + 0.02 for name, value in adapter.items()}
    at_once = session.evaluator.shared(adapter), session.evaluator.personal(lambda _: adapter)
    monkeypatch.setattr(passes, "TOKENS_PER_PASS", 100)
    monkeypatch.setattr(evaluator, "ADAPTERS_AT_ONCE", 2)
    assert (session.evaluator.shared(adapter), session.evaluator.personal(lambda _: adapter)) == at_once
    shared, personal = at_once
    assert {"own", "global", "unseen", "clients", "categories"} <= shared.keys()
    assert personal["clients"] == shared["clients"]
    assert personal["own"] == shared["own"]
    assert personal["categories"] == shared["categories"]


def test_examples_are_asked_for_when_a_pass_has_room(session, monkeypatch):
    monkeypatch.setattr(passes, "TOKENS_PER_PASS", 100)
    asked = []

    def jobs():
        for row in range(len(session.data.clients)):
            asked.append(row)
            yield 0, session.data.examples_at(row, "train")

    adapter = session.grouped.initial(0)
    scores = score(session.model, session.grouped, Lanes(2, session.grouped.device), [adapter], jobs())
    first = next(scores)
    assert len(first.losses) == len(session.data.examples_at(0, "train"))
    assert len(asked) < len(session.data.clients) - 1
    assert 1 + len(list(scores)) == len(session.data.clients)


def test_many_tested_clients_are_told_as_quantiles(session, monkeypatch):
    adapter = session.grouped.initial(0)
    listed = session.evaluator.shared(adapter)
    monkeypatch.setattr(evaluator, "LISTED_CLIENTS", 5)
    result = session.evaluator.shared(adapter)
    quantiles = result["own"].pop("quantiles")
    losses = sorted(client["loss"] for client in listed.pop("clients").values())
    assert result == listed
    assert (quantiles["loss"]["min"], quantiles["loss"]["max"]) == (losses[0], losses[-1])
    assert quantiles["loss"]["median"] in losses[2:4]
    assert list(quantiles["accuracy"]) == list(quantiles["loss"])


def test_the_same_clients_are_tested_in_every_arm(tmp_path):
    values = recipe(
        write_examples(tmp_path / "words.jsonl"),
        federation={"rounds": 1, "clients_per_round": 2},
        evaluation={"max_clients": 3},
    )
    values |= {"baselines": ["local"]}
    metrics = fedloom.run(values, tmp_path / "run").metrics
    results = [metrics["eval"], *metrics["baselines"].values()]
    assert len(results) == 3
    assert len({tuple(result["clients"]) for result in results}) == 1
    assert len(metrics["eval"]["clients"]) == 3


def test_clients_without_tests_of_their_own_are_compared_on_the_global_one(tmp_path):
    values = recipe(write_examples(tmp_path / "words.jsonl"), federation={"rounds": 1, "clients_per_round": 2})
    values["data"] |= {"split": {"validation": 0.0, "test": 0.0}, "global_test": {"fraction": 0.1}}
    metrics = fedloom.run({**values, "baselines": ["local"]}, tmp_path / "run").metrics
    local = metrics["baselines"]["local"]
    assert local["loss"] == local["global"]["loss"] != metrics["baselines"]["base"]["loss"]
    assert "own" not in local
