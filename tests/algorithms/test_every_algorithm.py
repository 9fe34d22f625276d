"""Equalities that hold for every algorithm: its cohorts, its processes and its interruptions don't show."""

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fedloom
from fedloom.aggregation.registry import ALGORITHMS
from tests.algorithms.every import PARAMETERS, RUNS, Values
from tests.federated_runs import outcome
from tests.processes import TwoProcesses, forked, killed_run

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
