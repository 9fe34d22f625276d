"""Budgets and goals end the rounds where they say, whatever interrupts the run, and baselines get what was used."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import fedloom
from fedloom.inspection import evaluate_run
from fedloom.recipe.stop_schema import StopConfig
from fedloom.report.events import read_events
from fedloom.report.progress import closing_table
from fedloom.report.units import stop_text
from fedloom.stopping import settled, spent
from tests.federated_runs import outcome, recipe, write_examples

TOTALS = {"seconds": 12.5, "bytes_up": 600, "bytes_down": 400, "tokens": 50}


@pytest.mark.parametrize(
    ("rules", "rule", "reached"),
    [
        ({"seconds": 12.5}, "seconds", 12.5),
        ({"bytes": 1000}, "bytes", 1000),
        ({"tokens": 50}, "tokens", 50),
        ({"bytes": 1001, "tokens": 49}, "tokens", 50),
    ],
)
def test_a_budget_is_spent_when_it_is_reached_and_bytes_count_both_ways(rules, rule, reached):
    stop = spent(StopConfig(**rules), TOTALS)
    assert stop == {"rule": rule, "limit": rules[rule], "reached": reached}


def test_a_budget_that_is_not_reached_ends_nothing():
    assert spent(StopConfig(seconds=12.6, bytes=1001, tokens=51), TOTALS) is None
    assert spent(None, TOTALS) is None
    assert settled(None, {"loss": 0.0}, [0.0]) is None


def test_a_target_is_reached_from_its_own_side():
    loss = StopConfig(target={"measure": "loss", "value": 2.0})
    assert settled(loss, {"loss": 2.01}, [3.0, 2.01]) is None
    reached = {"rule": "target", "measure": "loss", "limit": 2.0, "reached": 2.0}
    assert settled(loss, {"loss": 2.0}, [3.0, 2.0]) == reached
    accuracy = StopConfig(target={"measure": "accuracy", "value": 0.5})
    assert settled(accuracy, {"loss": 1.0, "accuracy": 0.49}, [1.0]) is None
    assert settled(accuracy, {"loss": 1.0, "accuracy": 0.5}, [1.0])["reached"] == 0.5


@given(losses=st.lists(st.floats(0.1, 5.0), min_size=1, max_size=12), patience=st.integers(1, 4))
def test_patience_ends_after_so_many_evaluations_without_a_new_best(losses, patience):
    stop = settled(StopConfig(patience=patience), {"loss": losses[-1]}, losses)
    # An equal loss is no improvement.
    improved = [place for place, loss in enumerate(losses) if all(loss < before for before in losses[:place])]
    waited = len(losses) - 1 - improved[-1]
    assert (stop is not None) == (waited >= patience)
    if stop is not None:
        assert (stop["reached"], stop["best"]) == (waited, min(losses))


def test_the_words_of_a_stop():
    stops = {
        "bytes 1.2 MB of 1.0 MB": {"rule": "bytes", "limit": 1_000_000, "reached": 1_200_000},
        "seconds 1 min 1 s of 1 min 0 s": {"rule": "seconds", "limit": 60.0, "reached": 61.0},
        "tokens 5,001 of 5,000": {"rule": "tokens", "limit": 5000, "reached": 5001},
        "accuracy 51.0 %, target 50.0 %": {"rule": "target", "measure": "accuracy", "limit": 0.5, "reached": 0.51},
        "no loss below 1.250 in 2 evaluations": {"rule": "patience", "limit": 2, "reached": 2, "best": 1.25},
    }
    for text, stop in stops.items():
        assert stop_text({"round": 7, **stop}) == f"stopped after round 7: {text}"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_examples(tmp_path_factory.mktemp("rows") / "words.jsonl", clients=("ada", "bo", "cyd", "dee"))


def values(rows: Path, stop: dict, **sections) -> dict:
    federation = {"rounds": 6, "clients_per_round": 2, "stop": stop}
    made = recipe(rows, federation=federation, local={"epochs": None, "steps": 1, "schedule": "cosine"}, **sections)
    return {**made, "baselines": ["local", "centralized", {"kind": "fine_tuned", "rounds": 2}]}


@pytest.fixture(scope="module")
def stopped_by_bytes(rows, tmp_path_factory) -> tuple[Path, dict]:
    """A budget that the second round exceeds: one round costs what a run of one round has sent."""
    out = tmp_path_factory.mktemp("stopped")
    made = values(rows, {"bytes": 1})
    one = fedloom.run({**made, "baselines": []}, out / "one").metrics
    assert one["rounds"] == one["stop"]["round"] == 1
    made["federation"]["stop"]["bytes"] = one["bytes_up"] + one["bytes_down"] + 1
    fedloom.run(made, out / "run")
    return out / "run", made


def test_the_run_ends_after_the_round_that_exceeds_its_budget(stopped_by_bytes):
    out, made = stopped_by_bytes
    metrics = json.loads((out / "metrics.json").read_text())
    budget, sent = made["federation"]["stop"]["bytes"], metrics["bytes_up"] + metrics["bytes_down"]
    assert sent == 2 * (budget - 1)
    assert metrics["rounds"] == 2
    assert metrics["stop"] == {"round": 2, "rule": "bytes", "limit": budget, "reached": sent}
    events = read_events(out / "events.jsonl")
    federated = [event for event in events if event["event"] in {"round", "stop"}]
    assert [event["event"] for event in federated] == ["round", "round", "stop"]
    final = next(event for event in events if event["event"] == "evaluation" and event["arm"] == "federated")
    assert final["round"] == 2
    assert metrics["eval"] == final["result"] == evaluate_run(out)
    assert stop_text(metrics["stop"]) in str(closing_table(metrics).caption)


def test_baselines_get_the_rounds_that_the_federation_took(stopped_by_bytes):
    out, _ = stopped_by_bytes
    events = read_events(out / "events.jsonl")
    rounds = {
        arm: [event["round"] for event in events if event["event"] == "baseline_round" and event["arm"] == arm]
        for arm in ("local", "centralized", "fine_tuned")
    }
    # Two of four clients a round: alone, a client does half of the federation's two rounds.
    assert rounds == {"local": [1], "centralized": [1, 2], "fine_tuned": [1, 2]}
    stop = next(event for event in events if event["event"] == "stop")
    assert stop["rounds"] == {"federated": 2, "local": 1, "centralized": 2, "fine_tuned": 2}


def test_the_schedule_stays_that_of_the_planned_rounds(stopped_by_bytes, tmp_path):
    out, made = stopped_by_bytes
    planned = {**made, "baselines": [], "federation": {**made["federation"], "stop": None}, "evaluation": {"every": 2}}
    fedloom.run(planned, tmp_path / "run")
    events = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "round"]
    losses = [event["loss"] for event in read_events(out / "events.jsonl") if event["event"] == "round"]
    assert losses == [event["loss"] for event in events[:2]]


KILLED = """
import os, signal, sys
import fedloom.federation as federation
real, seen = federation.save_checkpoint, 0
def save(path, state):
    global seen
    real(path, state)
    seen += 1
    if seen == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
federation.save_checkpoint = save
from fedloom.cli import main
sys.argv = ["fedloom", "run", {recipe!r}, "--out", {out!r}]
main()
"""


def kill_and_resume(made: dict, folder: Path, after: int) -> Path:
    path, out = folder / "recipe.yaml", folder / "run"
    path.write_text(yaml.safe_dump(made))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = KILLED.format(after=after, recipe=str(path), out=str(out))
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == -signal.SIGKILL
    fedloom.run(made, out, resume=True)
    return out


# Checkpoints: the start, round 1, round 2, which is the last one.
@pytest.mark.long
@pytest.mark.parametrize("after", [2, 3])
def test_a_run_with_a_byte_budget_resumes_to_the_same_bytes(stopped_by_bytes, tmp_path, after):
    expected, made = stopped_by_bytes
    assert outcome(kill_and_resume(made, tmp_path, after)) == outcome(expected)


@pytest.mark.long
def test_a_run_with_a_target_and_patience_resumes_to_the_same_bytes(rows, tmp_path):
    made = values(rows, {"patience": 2, "target": {"measure": "loss", "value": 0.0}}, evaluation={"every": 1})
    # A rate at which training only does harm.
    made = {**made, "baselines": [], "local": {**made["local"], "learning_rate": 1.0}}
    result = fedloom.run(made, tmp_path / "left-alone")
    stop = result.metrics["stop"]
    assert (stop["rule"], stop["round"], stop["best"]) == ("patience", 2, result.metrics["baselines"]["base"]["loss"])
    # Killed between the two evaluations that are waited for.
    assert outcome(kill_and_resume(made, tmp_path, 2)) == outcome(tmp_path / "left-alone")


def test_a_target_ends_the_run_at_the_evaluation_that_reaches_it(rows, tmp_path):
    made = values(rows, {"target": {"measure": "loss", "value": 100.0}}, evaluation={"every": 2})
    result = fedloom.run({**made, "baselines": []}, tmp_path / "run")
    assert (result.metrics["rounds"], result.metrics["stop"]["rule"]) == (2, "target")


def test_seeds_may_stop_apart(rows, tmp_path):
    made = {**values(rows, {"tokens": 1}), "baselines": []}
    metrics = fedloom.run(made, tmp_path / "run", seeds=2).metrics
    assert metrics["rounds"] == 1
    assert {seed: stop["rule"] for seed, stop in metrics["stops"].items()} == {"0": "tokens", "1": "tokens"}
    assert "seed 1: stopped after round 1: tokens" in str(closing_table(metrics).caption)
