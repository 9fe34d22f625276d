"""Training in a simulated cell: what is planned is what is trained and sent, and the clock changes no adapter."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.arms import build_arms
from fedloom.errors import UserError
from fedloom.federation import first_state
from fedloom.model.flop import base_size
from fedloom.recipe import load_recipe
from fedloom.report.events import Event, read_events
from fedloom.runtime.simulated_load import SimulatedLoad
from fedloom.session import open_session
from tests.federated_runs import CLIENTS, outcome, recipe, without_times, write_examples
from tests.processes import carry_out

PLAIN = {"scheme": "no_pruning_equal_bandwidth"}
CELL = {"cell": {"bandwidth_hz": 4e5}, "devices": [{"name": "one", "flop_per_second": {"low": 1e9, "high": 4e9}}]}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("data") / "words.jsonl")


def small(source: Path, rounds: int, wireless: dict[str, Any] | None, **sections: Any) -> dict[str, Any]:
    participation = {} if wireless is None else {"wireless": {"scenario": CELL, **wireless}}
    participation |= sections.pop("participation", {})
    federation = {"rounds": rounds, "clients_per_round": 3, "participation": participation}
    return recipe(
        source,
        federation={**federation, **sections.pop("federation", {})},
        local={"epochs": None, "steps": 2, "batch_size": 2, **sections.pop("local", {})},
        evaluation={"max_examples": 2},
        **sections,
    )


def rounds(folder: Path) -> list[Event]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == "round"]


def finish(times: dict[str, float]) -> float:
    return times["receive_seconds"] + times["compute_seconds"] + times["send_seconds"]


def federated(source: Path, folder: Path, wireless: dict[str, Any], **sections: Any):
    """A session of one round with its plan and its updates, without the run around it."""
    session = open_session(load_recipe(small(source, 1, wireless, **sections)), folder)
    arm = build_arms(session)[0]
    state = first_state(session, arm)
    plan = arm.plan(1, state.algorithm)
    broadcast = {**state.adapter, **arm.algorithm.sent(state.algorithm)}
    updates = list(session.runtime.train(plan, broadcast, arm.algorithm))
    load = SimulatedLoad(
        session.model,
        session.grouped,
        session.recipe,
        lambda client: session.data.examples(client, "train"),
        arm.algorithm,
    )
    return session, plan, updates, load.of_round(plan, arm.algorithm.sent(state.algorithm))


MIXED = {"adapter": {"rank": [{"rank": 2, "share": 0.5}, {"rank": 4, "share": 0.5}], "targets": ["q_proj", "v_proj"]}}


@pytest.mark.parametrize(
    ("algorithm", "wireless", "sections"),
    [
        ("fedavg", PLAIN, {}),
        ("scaffold", PLAIN, {}),
        ("rolora", PLAIN, {}),
        ("flexlora", PLAIN, {"model": MIXED}),
        ("fedavg", {"scheme": "jcpba"}, {"local": {"pruning": {}}}),
        ("ffa_lora", {"scheme": "random_pruning"}, {"local": {"pruning": {}}}),
    ],
    ids=["fedavg", "scaffold", "rolora", "flexlora", "fedavg-jcpba", "ffa_lora-random"],
)
def test_the_bits_of_the_plan_are_those_that_cross(source, tmp_path, algorithm, wireless, sections):
    _, plan, updates, load = federated(source, tmp_path, wireless, federation={"algorithm": algorithm}, **sections)
    assert [update.client for update in updates] == list(plan.clients)
    for update in updates:
        rate = plan.prune_rates.get(update.client, 0.0)
        assert load.upload_bits(update.client, rate) == 8 * update.metrics["bytes_up"]
    assert load.download_bits(plan.clients) == 8 * max(update.metrics["bytes_down"] for update in updates)
    assert any(plan.prune_rates.values()) == ("pruning" in sections.get("local", {}))


def test_operations_are_those_of_the_model_and_of_the_tokens_that_are_trained(source, tmp_path):
    session, _, updates, load = federated(source, tmp_path, {"scheme": "jcpba"}, local={"pruning": {}})
    # Six layers of 160 with 416 neurons, and 2048 words; the table of embeddings is the output head's weight.
    size = base_size(session.model, session.grouped.shapes)
    assert (sum(size.layers.values()), size.head) == (6 * (4 * 160 * 160 + 3 * 160 * 416), 2048 * 160)
    adapter = 6 * 4 * (2 * (160 + 160) + 416 + 160)
    for update in updates:
        tokens, labels = update.metrics["tokens"], update.metrics["label_tokens"]
        whole = tokens * (4 * sum(size.layers.values()) + 6 * adapter) + labels * 4 * size.head
        assert load.flop(update.client, 0.0) == pytest.approx(whole, rel=1e-12)
        # Of 5 heads 3 are kept, of 416 neurons 208; of the adapter what is tied to them.
        half = 6 * (4 * 160 * 96 + 3 * 160 * 208)
        tied = 6 * 4 * (2 * (160 + 96) + 208 + 160)
        assert load.flop(update.client, 0.5) == pytest.approx(
            tokens * (4 * half + 6 * tied) + labels * 4 * size.head, rel=1e-12
        )


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    fedloom.run(small(source, 2, PLAIN), folder)
    return folder


def test_the_clock_changes_no_adapter(source, plain, tmp_path):
    fedloom.run(small(source, 2, None), tmp_path / "run")
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (plain, tmp_path / "run")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    timed = [{key: value for key, value in event.items() if "simulated" not in key} for event in rounds(plain)]
    assert without_times(timed) == without_times(rounds(tmp_path / "run"))


def test_a_round_lasts_as_long_as_its_slowest_client_and_rounds_add_up(plain):
    logged, metrics = rounds(plain), json.loads((plain / "metrics.json").read_text())
    for event in logged:
        clients = event["simulated_clients"]
        assert list(clients) == event["clients"]
        assert event["simulated_seconds"] == max(finish(times) for times in clients.values())
        assert min(times["wait_seconds"] for times in clients.values()) == 0
        waits = [times["wait_seconds"] for times in clients.values()]
        assert event["simulated_waiting_seconds"] == pytest.approx(sum(waits) / 3)
        assert sum(times["bandwidth_hz"] for times in clients.values()) == pytest.approx(4e5)
    assert metrics["simulated_seconds"] == math.fsum(event["simulated_seconds"] for event in logged)


def test_a_pruned_run_is_faster_on_the_clock_and_resumes_in_it(source, plain, tmp_path):
    values = small(source, 2, {"scheme": "jcpba"}, local={"pruning": {"calibration_examples": 2}})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fedloom.run(values, whole)
    for event, unpruned in zip(rounds(whole), rounds(plain), strict=True):
        assert event["clients"] == unpruned["clients"]
        clients = event["simulated_clients"].values()
        # The round's own sum: all end together.
        assert event["simulated_seconds"] == max(map(finish, clients)) == pytest.approx(min(map(finish, clients)))
        assert event["simulated_seconds"] < unpruned["simulated_seconds"]
        assert event["bytes_up"] < unpruned["bytes_up"]
        assert sum(times["bandwidth_hz"] for times in clients) == pytest.approx(4e5)
        assert any(times["prune_rate"] for times in clients)
    shutil.copytree(whole, stopped)
    (stopped / "metrics.json").unlink()
    shutil.rmtree(max((stopped / "checkpoints").iterdir()))
    fedloom.run(values, stopped, resume=True)
    assert outcome(stopped) == outcome(whole)


def test_asynchronous_clients_share_the_band_equally_and_wait_for_nobody(source, tmp_path):
    buffered = {"name": "fedbuff", "buffer_size": 2}
    metrics = fedloom.run(small(source, 3, PLAIN, federation={"algorithm": buffered}), tmp_path / "run").metrics
    logged = rounds(tmp_path / "run")
    for event in logged:
        assert list(event["simulated_clients"]) == event["clients"]
        for times in event["simulated_clients"].values():
            assert times["bandwidth_hz"] == pytest.approx(4e5 / 3)
            assert "wait_seconds" not in times
    # Whoever is in the first buffer has begun at 0.
    assert logged[0]["simulated_seconds"] == max(map(finish, logged[0]["simulated_clients"].values()))
    assert metrics["simulated_seconds"] == math.fsum(event["simulated_seconds"] for event in logged)


@pytest.mark.long
def test_two_processes_equal_one(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = small(source, 2, {"scheme": "jcpba"}, local={"pruning": {"calibration_examples": 2}})
    Path("recipe.yaml").write_text(json.dumps(values))
    carry_out("fedloom run recipe.yaml --out alone")
    carry_out("fedloom run recipe.yaml --out shared --processes 2")
    assert outcome(tmp_path / "alone") == outcome(tmp_path / "shared")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, {"scheme": "no_pruning_optimal_bandwidth"}),
        ({"scheme": "uniform_pruning_equal_bandwidth"}, {"scheme": "uniform_pruning_optimal_bandwidth"}),
    ],
    ids=["none", "uniform"],
)
def test_schemes_of_the_same_rates_train_the_same_adapter(source, tmp_path, one, other):
    """Bandwidths move the clock alone: benchmarks/jcpba.py trains such schemes once."""
    seconds = []
    for number, wireless in enumerate((one, other)):
        pruning = {} if wireless["scheme"].startswith("no") else {"local": {"pruning": {"calibration_examples": 2}}}
        fedloom.run(small(source, 1, wireless, **pruning), tmp_path / str(number))
        seconds.append(rounds(tmp_path / str(number))[0]["simulated_seconds"])
    adapters = [(tmp_path / str(number) / "adapter" / "adapter_model.safetensors").read_bytes() for number in (0, 1)]
    assert adapters[0] == adapters[1]
    assert seconds[1] < seconds[0]


def test_a_run_goes_on_in_no_other_cell(source, tmp_path, monkeypatch):
    """What training does not take from a scenario may change: its name, comments, the planner's work."""
    monkeypatch.chdir(tmp_path)
    file, trace, run = Path("cell.yaml"), Path("gains.csv"), Path("run")
    lines = ["round,client,gain_db", *(f"0,{name},-90" for name in CLIENTS)]
    trace.write_text("\n".join(lines))
    text = "name: cell\ntrace: gains.csv\ncell: {bandwidth_hz: 4e5}\n"
    file.write_text(text)
    values = small(source, 2, PLAIN | {"scenario": "cell.yaml"})
    fedloom.run(values, run)
    (run / "metrics.json").unlink()
    shutil.rmtree(max((run / "checkpoints").iterdir()))
    told = "federation.participation.wireless.scenario: not what the run in run began with"
    file.write_text(text.replace("4e5", "5e5"))
    with pytest.raises(UserError, match=re.escape(told)):
        fedloom.run(values, run, resume=True)
    file.write_text(text)
    trace.write_text("\n".join(lines).replace("-90", "-91", 1))
    with pytest.raises(UserError, match=re.escape(told)):
        fedloom.run(values, run, resume=True)
    trace.write_text("\n".join(lines))
    file.write_text(f"# The same cell.\n{text}work: {{epochs: 3}}\n".replace("name: cell", "name: hall"))
    fedloom.run(values, run, resume=True)
    assert len(rounds(run)) == 2
