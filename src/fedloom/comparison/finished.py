"""What a finished cell has to say, read back from its run directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedloom.comparison.cells import Cell
from fedloom.comparison.plan import FEDERATED
from fedloom.report.events import Event
from fedloom.report.record import Run, read_record
from fedloom.report.results import MEASURES

BASE, START = "base", "start"


def read_run(cell: Cell) -> dict[str, Any]:
    """One entry of `runs` in compare.json.

    Args:
        cell: a cell that has ended.

    Returns:
        seed, folder, failed (None or the reason), seconds, bytes, tokens, scores, curve, training, simulated, clients;
        what a failed run has not come to is None or empty.
    """
    arm, failure = cell.subject.arm, cell.failure
    run = read_record(cell.folder).runs[0]
    rounds = run.rounds(arm)
    metrics = cell.metrics if failure is None else {}
    results = {**metrics.get("baselines", {}), **({FEDERATED: metrics["eval"]} if "eval" in metrics else {})}
    return {
        "seed": cell.seed,
        "folder": str(cell.folder.relative_to(cell.root)),
        "failed": failure,
        "seconds": metrics.get("seconds"),
        # A baseline's clients exchange nothing.
        "bytes": metrics.get("bytes_up", 0) + metrics.get("bytes_down", 0) if metrics else None,
        "tokens": sum(event["tokens"] for event in rounds.values()) if metrics else None,
        "scores": {name: _numbers(result) for name, result in results.items()},
        "curve": _curve(run, arm),
        "training": {"round": list(rounds), "loss": [event["loss"] for event in rounds.values()]},
        "simulated": _simulated(run) if arm == FEDERATED else None,
        "clients": _clients(results.get(arm)),
    }


def start_of(cell: Cell) -> Event:
    """What a cell's event log begins with."""
    return read_record(cell.folder).runs[0].start


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    return {measure: result[measure] for measure in MEASURES if measure in result}


def _curve(run: Run, arm: str) -> dict[str, Any]:
    """Evaluations by round; the untuned base is round 0, or the adapter that training started from."""
    results = {**run.evaluations(BASE), **run.evaluations(START), **run.evaluations(arm)}
    accuracy = [result.get("accuracy") for result in results.values()]
    return {
        "round": list(results),
        "loss": [result["loss"] for result in results.values()],
        "accuracy": None if None in accuracy else accuracy,
    }


def _simulated(run: Run) -> dict[str, Any] | None:
    """Seconds that have passed on the simulated clock after each round, where the recipe has one."""
    passed = run.simulated()
    return {"round": list(passed), "seconds": list(passed.values())} if passed else None


def _clients(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    clients = None if result is None else result.get("clients")
    return None if clients is None else {name: _numbers(block) for name, block in clients.items()}
