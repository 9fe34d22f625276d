from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.report.events import EventLog

CLIENTS = ("north", "south")


def make_result(accuracy: float, loss: float, clients: tuple[str, ...] = CLIENTS) -> dict[str, Any]:
    """A result of one arm; the global test is five points harder than the clients' own."""
    own = {"loss": loss, "accuracy": accuracy, "examples": 40}
    shared = {**own, "accuracy": accuracy - 0.05}
    return {
        "loss": shared["loss"],
        "accuracy": shared["accuracy"],
        "own": own,
        "global": shared,
        "clients": {client: {**own, "examples": 20} for client in clients},
        "categories": {"dates": {"accuracy": accuracy, "examples": 10}},
    }


def make_metrics(shift: float = 0.0, clients: tuple[str, ...] = CLIENTS) -> dict[str, Any]:
    """The metrics file of a finished run."""
    return {
        "name": "two-sites",
        "rounds": 3,
        "seconds": 12.0,
        "bytes_up": 120_000,
        "bytes_down": 240_000,
        "tokens": 3000,
        "eval": make_result(0.6 + shift, 1.0 - shift, clients),
        "baselines": {"base": make_result(0.1, 2.0, clients), "local": make_result(0.4, 1.4, clients)},
    }


def write_run(run_dir: Path, *, shift: float = 0.0, clients: tuple[str, ...] = CLIENTS, finished: bool = True) -> Path:
    """A run directory, written the way a run writes it."""
    log = EventLog(run_dir / "events.jsonl")
    log.append(
        "start",
        name="two-sites",
        fedloom="0.1.0",
        clients=len(clients),
        examples={"train": 100, "validation": 10, "test": 40},
        parameters={"base": 1_000_000, "trainable": 10_000},
        device="cpu",
        dtype="float32",
        versions={"torch": "2.13.0"},
        data_seconds=0.5,
    )
    log.append("evaluation", arm="base", round=0, seconds=0.1, result=make_result(0.1, 2.0, clients))
    for number in (1, 2, 3):
        log.append(
            "round",
            round=number,
            clients=list(clients),
            loss=2.0 / number + shift,
            tokens=1000,
            train_seconds=2.0,
            aggregate_seconds=0.1,
            bytes_up=40_000,
            bytes_down=80_000,
            client_losses=dict.fromkeys(clients, 1.0),
        )
    (run_dir / "recipe.yaml").write_text("name: two-sites\nfederation:\n  rounds: 9\n")
    if finished:
        final = make_result(0.6 + shift, 1.0 - shift, clients)
        log.append("evaluation", arm="federated", round=3, seconds=0.1, result=final)
        log.append("baseline_round", arm="local", round=1, loss=1.5, tokens=1000, train_seconds=1.0)
        log.append("evaluation", arm="local", round=1, seconds=0.1, result=make_result(0.4, 1.4, clients))
        log.append("end", seconds=12.0)
        (run_dir / "metrics.json").write_text(json.dumps(make_metrics(shift, clients)))
    return run_dir


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def running_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", finished=False)


@pytest.fixture
def write() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def metrics() -> dict[str, Any]:
    return make_metrics()


@pytest.fixture
def result() -> Callable[..., dict[str, Any]]:
    return make_result
