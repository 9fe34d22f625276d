"""Runs in several processes: equal to a run in one, and what happens when a process dies or a user errs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

import fedloom
from fedloom.report.events import read_events
from tests.federated_runs import outcome, recipe, write_examples

pytestmark = pytest.mark.long

# What the algorithm does in a run that iterates over updates instead of folding them: the general path.
ITERATING = """
import os
import sys
import fedloom
import fedloom.aggregation.fedavg

def iterate(updates, into):
    for update in updates:
        into.add(update)
    return into

fedloom.aggregation.fedavg.fold = iterate
result = fedloom.run(sys.argv[1], sys.argv[2])
# One write for the whole line: both processes share this pipe, and print writes the line's end by itself.
os.write(1, f"{result.metrics['name']}\\n".encode())
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    values = recipe(
        write_examples(folder / "words.jsonl"),
        federation={"rounds": 3, "clients_per_round": 5},
        evaluation={"exact_match": True, "cross": True},
    )
    values["baselines"] = ["local", "centralized"]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(*arguments: object, module: str = "fedloom") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def alone(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    fedloom.run(recipe_file, out)
    assert not torch.distributed.is_initialized()
    return out


def test_two_processes_equal_one(recipe_file: Path, alone: Path, tmp_path: Path) -> None:
    told = finish(start("run", recipe_file, "--out", tmp_path / "run", "--processes", 2))
    # One process speaks.
    assert told.count("federated round 1/3") == 1
    assert outcome(tmp_path / "run") == outcome(alone)
    # Of several processes, and only of those, the log tells how long each has worked.
    rounds = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "round"]
    assert [len(event["process_seconds"]) for event in rounds] == [2, 2, 2]
    assert all(min(event["process_seconds"]) > 0 for event in rounds)
    assert "process_seconds" not in (alone / "events.jsonl").read_text()


def test_torchrun_and_an_algorithm_that_wants_every_update(recipe_file: Path, alone: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ITERATING)
    torchrun = ["--standalone", "--nproc-per-node", 2, script, recipe_file, tmp_path / "run"]
    assert finish(start(*torchrun, module="torch.distributed.run")).splitlines() == ["test", "test"]
    assert outcome(tmp_path / "run") == outcome(alone)


def kill_one(process: subprocess.Popen[str], out: Path, event: str, rank: int) -> str:
    """Kill one of a run's processes after an event; returns what the run says."""
    events = out / "events.jsonl"
    while not (events.exists() and f'"event": "{event}", ' in events.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)
    ranks[rank].send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert not any(child.is_running() for child in ranks)
    return errors


def test_a_killed_process_ends_the_run_and_any_number_goes_on(recipe_file: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = kill_one(start("run", recipe_file, "--out", out, "--processes", 2), out, "round", 1)
    assert re.fullmatch(r"error: process 1 \(of 2, .*\) was killed by SIGKILL.*\nhint: go on with --resume\n", told)
    assert not (out / "adapter").exists()
    # One process trains the adapter to its end and begins with clients' own ones; two go on with those.
    one = start("run", recipe_file, "--out", out, "--resume", "--processes", 1)
    assert "process 0 (of 1" in kill_one(one, out, "baseline_round", 0)
    adapter = (out / "adapter" / "adapter_model.safetensors").read_bytes()
    assert adapter == (alone / "adapter" / "adapter_model.safetensors").read_bytes()
    finish(start("run", recipe_file, "--out", out, "--resume", "--processes", 2))
    assert outcome(out) == outcome(alone)


def test_nobody_is_left_when_the_parent_is_killed(recipe_file: Path, tmp_path: Path) -> None:
    process = start("run", recipe_file, "--out", tmp_path / "run", "--processes", 2)
    while len(ranks := psutil.Process(process.pid).children()) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    gone, left = psutil.wait_procs(ranks, timeout=60)
    assert len(gone) == 2, left


def refused(*arguments: object) -> str:
    process = start("run", *arguments)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert output.count("error") == 0
    lines = errors.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), errors
    return errors


def test_a_mistake_before_any_process_starts(recipe_file: Path, tmp_path: Path) -> None:
    told = refused(recipe_file, "--out", tmp_path / "run", "--set", "runtime.kind=distributed")
    assert "runtime.processes: is required" in told
    assert "--processes N" in told
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_the_data(recipe_file: Path, tmp_path: Path) -> None:
    told = refused(recipe_file, "--out", tmp_path / "run", "--processes", 1, "--set", "data.template=alpacca")
    assert "'alpacca'" in told
    assert not (tmp_path / "run").exists()


def test_diverged_training(recipe_file: Path, tmp_path: Path) -> None:
    local = "local={epochs: 1, optimizer: sgd, learning_rate: 1.0e+38, max_gradient_norm: null}"
    told = refused(recipe_file, "--out", tmp_path / "run", "--processes", 2, "--set", local)
    assert re.search(r"round 1: the loss of client '.*' is not a finite number", told)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["0-000000"]
