"""Equalities that hold for every algorithm: its cohorts, its processes and its interruptions don't show."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fedloom
from fedloom.aggregation.registry import ALGORITHMS
from tests.algorithms.every import PARAMETERS, RUNS, Values
from tests.federated_runs import outcome

pytestmark = pytest.mark.long

LeftBy = Callable[[str], Values]
Finished = Callable[[str], Path]


def test_no_algorithm_is_left_out() -> None:
    assert PARAMETERS.keys() == ALGORITHMS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_cohorts_of_one_and_of_eight(name: str, source: Path, left_by: LeftBy, tmp_path: Path) -> None:
    """As the kills below check, too; if both fail, it is not for the kill."""
    fedloom.run(RUNS[name](source), tmp_path / "run", ["runtime.cohort=1"])
    assert outcome(tmp_path / "run") == left_by(name)


def test_no_two_algorithms_do_the_same(left_by: LeftBy) -> None:
    """Not by chance either: what makes an algorithm special was at work."""
    adapters: dict[bytes, str] = {}
    for name in RUNS:
        if name in {"ditto", "ditto, fine_tuned"}:
            continue  # Its shared adapter is that of fedavg.
        adapter = left_by(name)["adapters"]["adapter/adapter_model.safetensors"]
        assert adapters.setdefault(adapter, name) == name


# Processes that fork from one that has loaded everything, and computed nothing yet.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["fedloom.session", "fedloom.runs", "peft"])


def killed_run(values: Values, overrides: list[str], out: Path, write: int, early: bool) -> None:
    """Carry out a run, and die at the n-th write of a checkpoint or of a client's state: before or after it counts."""
    real, seen = os.replace, 0

    def replace(partial: Path, final: Path) -> None:
        nonlocal seen
        seen += {"checkpoints", "clients"} & set(Path(final).parts) != set()
        if early and seen == write:
            os.kill(os.getpid(), signal.SIGKILL)
        real(partial, final)
        if seen == write:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    fedloom.run(values, out, overrides)


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_client_by_client(name: str, source: Path, left_by: LeftBy, tmp_path: Path) -> None:
    expected, values, out = left_by(name), RUNS[name](source), tmp_path / "run"
    alone = ["runtime.cohort=1"]
    rounds = [event for event in expected["events"] if event["event"] == "round"]
    # A client writes where it keeps something; checkpoints are written before the first round and after each.
    keeps = any(path.startswith("clients/") for path in expected["adapters"])
    writes = 1 + len(rounds) + (sum(len(event["clients"]) for event in rounds) if keeps else 0)
    draw = random.Random(name)
    write, early = draw.randint(2, writes), draw.random() < 0.5
    process = forked.Process(target=killed_run, args=(values, alone, out, write, early))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "metrics.json").exists()
    fedloom.run(values, out, alone, resume=True)
    assert outcome(out) == expected


RANK = """
import json
import sys
from fedloom.places import Place
from fedloom.recipe import parse_recipe
from fedloom.runs import take_part

for line in sys.stdin:
    task = json.loads(line)
    take_part(Place(**task["place"]), lambda: parse_recipe(task["recipe"]), task["out"], False, 1, False)
    print("done", flush=True)
"""


class TwoProcesses:
    """Two processes that carry out one recipe after another; started once, as that takes longer than the runs."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]

    def run(self, values: Values, out: Path) -> None:
        point = out.with_name("meeting_point").as_uri()
        for rank, process in enumerate(self.processes):
            place = {"rank": rank, "size": 2, "local_rank": rank, "local_size": 2, "meeting_point": point}
            recipe = {**values, "runtime": {**values["runtime"], "kind": "distributed", "processes": 2}}
            print(json.dumps({"place": place, "recipe": json.dumps(recipe), "out": str(out)}), file=process.stdin)
            process.stdin.flush()
        for process in self.processes:
            if process.stdout.readline() != "done\n":
                self.end()
                pytest.fail("\n".join(one.stderr.read() for one in self.processes))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def two_processes() -> Iterator[TwoProcesses]:
    pair = TwoProcesses()
    yield pair
    pair.end()


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(
    name: str, source: Path, left_by: LeftBy, two_processes: TwoProcesses, tmp_path: Path
) -> None:
    two_processes.run(RUNS[name](source), tmp_path / "run")
    assert outcome(tmp_path / "run") == left_by(name)
