"""A run killed with SIGKILL at any moment and resumed ends with the bytes of the run that was left alone."""

import builtins
import io
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.federated_runs import outcome, recipe, write_examples
from tests.processes import Command

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    values = recipe(
        write_examples(folder / "words.jsonl", clients=("ada", "bo", "cyd", "dee")),
        federation={"rounds": 6, "clients_per_round": 3},
        local={"schedule": "cosine"},
        evaluation={"every": 2, "exact_match": True},
        runtime={"cohort": 2},
    )
    values["baselines"] = ["local", "centralized"]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    command = [sys.executable, "-m", "fedloom", "run", str(recipe_file), "--out", str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return outcome(out)


def start(recipe_file: Path, out: Path) -> Command:
    return Command("run", recipe_file, "--out", out, "--resume")


def events_in(out: Path) -> int:
    log = out / "events.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def killed_after(command: Command, out: Path, events: int, delay: float) -> bool:
    """Kill a run a moment after its log holds so many events; returns whether it was still at work."""
    while events_in(out) < events and command.process.is_alive():
        time.sleep(0.005)
    time.sleep(delay)
    return command.kill()


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(recipe_file, undisturbed, tmp_path, seed):
    generator = random.Random(seed)
    events, delay = generator.randint(0, len(undisturbed["events"]) - 2), generator.uniform(0, 0.3)
    attempt = 0
    # A run that has ended before it was killed is tried again, and killed earlier.
    while not killed_after(start(recipe_file, out := tmp_path / str(attempt)), out, events, delay / 2**attempt):
        attempt += 1
        events //= 2
    start(recipe_file, out).finish()
    assert outcome(out) == undisturbed


@pytest.mark.slow
def test_twenty_runs_killed_at_random_moments(recipe_file, undisturbed, tmp_path):
    generator, total = random.Random(20), len(undisturbed["events"])
    killed, started = 0, 0
    while killed < 20:
        started += 1
        assert started <= 40, "most runs end before they are killed"
        out, kills = tmp_path / str(started), 0
        for _ in range(generator.randint(1, 2)):
            events = generator.randint(events_in(out), total)
            kills += killed_after(start(recipe_file, out), out, events, generator.uniform(0, 0.3))
        start(recipe_file, out).finish()
        killed += kills > 0
        assert outcome(out) == undisturbed, f"run {started}"


@dataclass
class DyingWhileWriting:
    """Lets a process die in the middle of writing one particular file, for the so-manyeth time.

    Args:
        file: part of its path.
        time: which.
    """

    file: str
    time: int

    def __call__(self) -> None:
        real_open = builtins.open

        def opened(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if "w" in mode:
                self.die_at(path)
            return real_open(path, mode, *rest, **options)

        builtins.open = io.open = opened

    def die_at(self, path: Any) -> None:
        self.time -= self.file in str(path)
        if self.time == 0:
            Path(path).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("file", "time"),
    [
        ("recipe.yaml.partial", 1),
        ("state.safetensors", 4),
        ("state.json", 4),
        ("adapter_model.safetensors", 1),
        ("metrics.json", 1),
    ],
)
def test_killed_while_writing(recipe_file, undisturbed, tmp_path, file, time):
    """The moments that are hardest to hit by chance."""
    out = tmp_path / "run"
    assert Command("run", recipe_file, "--out", out, before=DyingWhileWriting(file, time)).ended_by_a_kill()
    start(recipe_file, out).finish()
    assert outcome(out) == undisturbed
