"""A comparison killed with SIGKILL, or shared between processes, comes to what an undisturbed one comes to."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import fedloom
from tests.compare import RATES, VARIANTS, results
from tests.federated_runs import outcome
from tests.processes import Command

UNITS = 4 + 8  # tunings of two variants and two baselines, and their cells


def start(recipe_file: Path, out: Path, *options: object) -> Command:
    vary = "federation.algorithm=" + ",".join(json.dumps(value) for value in VARIANTS)
    tune = "local.learning_rate=" + ",".join(map(str, RATES))
    return Command("compare", recipe_file, "--vary", vary, "--tune", tune, "--seeds", 2, "--out", out, *options)


def ended(out: Path) -> list[Path]:
    """The file that each unit's end puts in place."""
    chosen = [path for path in out.glob("tuning/*/trials.json") if json.loads(path.read_text())["chosen"] is not None]
    return [*chosen, *out.glob("cells/*/*/metrics.json")]


def kill_after(command: Command, out: Path, count: int, delay: float) -> None:
    """Kill a comparison somewhere in the work that follows on its so-manyeth unit."""
    while len(ended(out)) < count and command.process.is_alive():
        time.sleep(0.01)
    time.sleep(delay)
    command.kill()


def cell_files(out: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files of the cells that have ended: which file it is, when it was written, and what it holds."""
    return {
        str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for metrics in out.glob("cells/*/*/metrics.json")
        for path in metrics.parent.rglob("*")
        if path.is_file() and path.name != "report.html"
    }


@pytest.mark.long
def test_killed_twice_and_resumed(recipe_file, undisturbed, tmp_path):
    generator = random.Random(0)
    out = tmp_path / "out"
    # Once while it tunes, once among the cells.
    for low, high in ((0, 3), (5, UNITS - 2)):
        kill_after(start(recipe_file, out, "--resume"), out, generator.randint(low, high), generator.uniform(0, 0.3))
    kept = cell_files(out)
    assert kept
    start(recipe_file, out, "--resume").finish()
    assert results(out) == results(undisturbed)
    assert {name: file for name, file in cell_files(out).items() if name in kept} == kept
    for cell in undisturbed.glob("cells/*/*"):
        adapter = cell.relative_to(undisturbed) / "adapter" / "adapter_model.safetensors"
        if (undisturbed / adapter).exists():
            assert (out / adapter).read_bytes() == (undisturbed / adapter).read_bytes()


@pytest.mark.long
def test_two_processes_one_of_which_is_killed(recipe_file, undisturbed, tmp_path):
    out = tmp_path / "out"
    command = start(recipe_file, out, "--processes", 2)
    while not ended(out) and command.process.is_alive():
        time.sleep(0.01)
    number = command.process.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    command.finish()
    assert results(out) == results(undisturbed)


def test_a_kill_while_first_files_are_written_leaves_nothing_in_the_way(recipe_file, tmp_path):
    out, cell = tmp_path / "out", tmp_path / "out" / "cells" / "steps=1" / "seed-0"
    settings = {"vary": {"local.steps": [1]}, "seeds": 1, "baselines": False, "overrides": ["federation.rounds=1"]}
    out.mkdir()
    for name in (".lock", ".arguments.json.partial"):
        (out / name).write_text("{")
    done = fedloom.compare(recipe_file, out, **settings)
    expected = outcome(cell)
    shutil.rmtree(cell)
    cell.mkdir()
    for name in (".lock", ".recipe.yaml.partial"):
        (cell / name).write_text("name: te")
    assert fedloom.compare(recipe_file, out, resume=True, **settings).results["cells"] == done.results["cells"]
    assert {**outcome(cell), "files": []} == {**expected, "files": []}
