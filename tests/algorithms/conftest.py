"""What the tests that go over every algorithm share: the data, and each algorithm's run, carried out once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import fedloom
from tests.algorithms.every import RUNS, Values
from tests.federated_runs import outcome, write_examples


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("words") / "words.jsonl", growth=2)


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run directory of one of `RUNS`: in one process, all clients of a round in one pass."""

    @cache
    def run(name: str) -> Path:
        return fedloom.run(RUNS[name](source), tmp_path_factory.mktemp("runs") / "run").out

    return run


@pytest.fixture(scope="session")
def left_by(finished: Callable[[str], Path]) -> Callable[[str], Values]:
    """What one of `RUNS` leaves."""
    return cache(lambda name: outcome(finished(name)))
