"""What the tests that go over every kind of adapter share: the data, and each kind's runs, carried out once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import fedloom
from tests.adapters.kinds import settings
from tests.federated_runs import CLIENTS, write_examples

Finished = Callable[..., Path]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("words") / "words.jsonl", CLIENTS[:3], growth=4)


@pytest.fixture(scope="session")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run directory of a kind under an algorithm: all clients of a round in one pass, where they share one."""

    @cache
    def run(kind: str, algorithm: str = "fedavg") -> Path:
        return fedloom.run(settings(source, kind, algorithm), tmp_path_factory.mktemp("runs") / "run").out

    return run
