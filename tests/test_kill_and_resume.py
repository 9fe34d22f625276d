"""A run killed with SIGKILL at any moment and resumed ends with the bytes of the run that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.federated_runs import outcome, recipe, write_examples

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    values = recipe(
        write_examples(folder / "words.jsonl"),
        federation={"rounds": 6, "clients_per_round": 3},
        local={"schedule": "cosine"},
        evaluation={"every": 2, "exact_match": True},
        runtime={"cohort": 2},
    )
    values["baselines"] = ["local", "centralized"]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(recipe_file: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedloom", "run", str(recipe_file), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory) -> tuple[dict, float]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    began = time.monotonic()
    finish(start(recipe_file, out))
    return outcome(out), time.monotonic() - began


def kill_and_resume(recipe_file: Path, out: Path, delays: list[float]) -> int:
    kills = 0
    for delay in delays:
        process = start(recipe_file, out, "--resume")
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    finish(start(recipe_file, out, "--resume"))
    return kills


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(recipe_file, undisturbed, tmp_path, seed):
    expected, seconds = undisturbed
    delay = random.Random(seed).uniform(0.3, 0.8) * seconds
    # A machine may be faster now than when the undisturbed run was timed: what was not killed is tried again.
    attempt = 0
    while not kill_and_resume(recipe_file, tmp_path / str(attempt), [delay / 2**attempt]):
        attempt += 1
    assert outcome(tmp_path / str(attempt)) == expected


@pytest.mark.slow
def test_twenty_runs_killed_at_random_moments(recipe_file, undisturbed, tmp_path):
    expected, seconds = undisturbed
    generator = random.Random(20)
    killed, started = 0, 0
    while killed < 20:
        started += 1
        assert started <= 40, "most runs end before they are killed"
        delays = [generator.uniform(0.15, 0.85) * seconds for _ in range(generator.randint(1, 2))]
        kills = kill_and_resume(recipe_file, tmp_path / str(started), delays)
        killed += kills > 0
        assert outcome(tmp_path / str(started)) == expected, f"run {started}, killed after {delays}"


@pytest.mark.parametrize(
    "during", ["recipe.yaml.partial", "state.safetensors", "state.json", "adapter_model.safetensors", "metrics.json"]
)
def test_killed_while_writing(recipe_file, undisturbed, tmp_path, during):
    """The process dies in the middle of writing one particular file: the moments that are hardest to hit by chance."""
    script = f"""
import builtins, io, os, signal, sys
from pathlib import Path
import safetensors.torch as st
real_open, real_save = builtins.open, st.save_file
seen = 0
def die_at(path):
    global seen
    if {during!r} in str(path):
        seen += 1
        if seen == {1 if during in ("recipe.yaml.partial", "metrics.json", "adapter_model.safetensors") else 4}:
            Path(path).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
def opened(path, mode="r", *rest, **options):
    if "w" in mode:
        die_at(path)
    return real_open(path, mode, *rest, **options)
def saved(tensors, path, *rest):
    die_at(path)
    return real_save(tensors, path, *rest)
builtins.open = io.open = opened
st.save_file = saved
from fedloom.cli import main
sys.argv = ["fedloom", "run", {str(recipe_file)!r}, "--out", {str(tmp_path / "run")!r}]
main()
"""
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    finish(start(recipe_file, tmp_path / "run", "--resume"))
    assert outcome(tmp_path / "run") == undisturbed[0]
