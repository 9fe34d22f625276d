"""Participation in runs: what the event log tells, rounds without clients, and resuming in simulated time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.randomness import numpy_generator
from fedloom.report.events import Event, read_events
from tests.federated_runs import CLIENTS, recipe, write_examples

TIMES = {"time", "seconds", "train_seconds", "aggregate_seconds", "data_seconds"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("data") / "words.jsonl")


def small(source: Path, rounds: int, per_round: int, **participation: Any) -> dict[str, Any]:
    return recipe(
        source,
        federation={"rounds": rounds, "clients_per_round": per_round, "participation": participation},
        local={"epochs": None, "steps": 1, "batch_size": 2},
        evaluation={"max_examples": 2},
    )


def events(folder: Path) -> list[Event]:
    return [
        {key: value for key, value in event.items() if key not in TIMES}
        for event in read_events(folder / "events.jsonl")
    ]


def rounds(folder: Path) -> list[Event]:
    return [event for event in events(folder) if event["event"] == "round"]


def test_a_plain_run_draws_as_ever_and_tells_of_no_simulation(source, tmp_path):
    result = fedloom.run(small(source, 2, 3), tmp_path / "run")
    for event in rounds(tmp_path / "run"):
        drawn = numpy_generator(0, "clients", event["round"]).choice(len(CLIENTS), 3, replace=False)
        assert event["clients"] == sorted(CLIENTS[index] for index in drawn)
        assert not {"missing", "simulated_seconds"} & event.keys()
    assert "simulated_seconds" not in result.metrics


def test_a_round_without_clients_passes(source, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("client,from,to\nada,0,1\nbo,2,3\n")
    folder = tmp_path / "run"
    values = small(source, 3, 2, availability_trace=str(trace))
    values["evaluation"]["every"] = 1
    result = fedloom.run(values, folder)
    logged = rounds(folder)
    assert [event["clients"] for event in logged] == [["ada"], [], ["bo"]]
    assert [event["loss"] is None for event in logged] == [False, True, False]
    assert logged[1]["bytes_up"] == logged[1]["tokens"] == 0
    reached = [event["result"] for event in events(folder) if event.get("arm") == "federated"]
    assert reached[0] == reached[1] != reached[2]
    assert result.report.read_text().count("<html") == 1


def test_missing_clients_and_simulated_time_are_told_and_a_resumed_run_goes_on_in_it(source, tmp_path):
    trace = tmp_path / "trace.jsonl"
    intervals = [(client, 0.6 * place, 0.6 * place + 1) for place, client in enumerate(CLIENTS)]
    rows = [json.dumps({"client": client, "from": start, "to": end}) for client, start, end in intervals]
    trace.write_text("\n".join(rows))
    values = small(
        source,
        6,
        2,
        availability_trace=str(trace),
        drop_out=0.2,
        over_selection=1.5,
        deadline=0.5,
        clock={"spread": 1.0},
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    metrics = fedloom.run(values, whole).metrics
    logged = rounds(whole)
    assert any("missing" in event for event in logged)
    assert metrics["simulated_seconds"] == sum(event["simulated_seconds"] for event in logged)
    assert len({tuple(event["clients"]) for event in logged}) > 1

    shutil.copytree(whole, stopped)
    (stopped / "metrics.json").unlink()
    shutil.rmtree(max((stopped / "checkpoints").iterdir()))
    resumed = fedloom.run(values, stopped, resume=True).metrics
    assert events(stopped) == events(whole)
    assert resumed["simulated_seconds"] == metrics["simulated_seconds"]
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (whole, stopped)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
