"""Trackers people may already use: TensorBoard, Weights & Biases, MLflow, all writing into the run directory.

Each is a listener of the event log. The packages are extras and are imported only when a recipe asks for one.
Nothing leaves the machine unless the user has set WANDB_MODE or MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedloom.errors import UserError, unknown_name
from fedloom.report.events import Event
from fedloom.report.results import MEASURES, TEST_SETS

Numbers = dict[str, float]


class Tracker(Protocol):
    """A listener that must be closed when the run ends."""

    def __call__(self, event: Event) -> None:
        """Record one event."""

    def close(self) -> None:
        """Write everything out."""


def open_tracker(name: str, run_dir: Path, run_name: str) -> Tracker:
    """Open one tracker of the recipe.

    Args:
        name: "tensorboard", "wandb" or "mlflow".
        run_dir: the run directory; local files of the tracker go below it.
        run_name: what the tracker shows as the name of the run.

    Returns:
        The tracker; add it to the event log and close it at the end.

    Raises:
        UserError: if the name is unknown or its package is not installed.
    """
    if name not in _TRACKERS:
        raise unknown_name("trackers", name, _TRACKERS)
    try:
        return _TRACKERS[name](run_dir, run_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"trackers: {name!r} needs the package {error.name!r}", hint=f'pip install "fedloom[{name}]"'
        ) from error


def numbers_of(event: Event) -> tuple[str, int, Numbers] | None:
    """The plottable part of an event.

    Args:
        event: any event of the log.

    Returns:
        The arm, the round and the numbers by name, or None for events without a round.
    """
    if event["event"] in ("round", "baseline_round"):
        keys = ("loss", "tokens", "train_seconds", "aggregate_seconds", "bytes_up", "bytes_down", "simulated_seconds")
        numbers = {f"train/{key}": event[key] for key in keys if event.get(key) is not None}
    elif event["event"] == "evaluation":
        numbers = dict(_result_numbers(event["result"]))
    elif event["event"] == "suites":
        scores = {task: values["score"] for task, values in event["tasks"].items()}
        numbers = {f"suites/{task}": score for task, score in scores.items() if score is not None}
    else:
        return None
    return event.get("arm", "federated"), int(event["round"]), numbers


def settings_of(event: Event) -> dict[str, str]:
    """The `start` event as flat text, for the parameter tables of trackers.

    Args:
        event: the `start` event.

    Returns:
        Values by dotted name.
    """
    return {key: str(value) for key, value in _flat(event) if key not in ("event", "time")}


def _result_numbers(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    blocks = [("test", result), *((f"test_{key}", result.get(key) or {}) for key in TEST_SETS)]
    for prefix, block in blocks:
        for measure in MEASURES:
            if block.get(measure) is not None:
                yield f"{prefix}/{measure}", block[measure]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


class TensorBoard:
    """Writes `tensorboard/<arm>/`, so that the arms of one run lie over each other in every chart.

    Args:
        run_dir: the run directory.
        run_name: unused, TensorBoard names runs by folder.
    """

    def __init__(self, run_dir: Path, run_name: str) -> None:
        self._folder = run_dir / "tensorboard"
        self._events = importlib.import_module("tensorboard.compat.proto.event_pb2")
        self._summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._writer = importlib.import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter
        self._arms: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Record one event."""
        found = numbers_of(event)
        if found is None:
            return
        arm, step, numbers = found
        if arm not in self._arms:
            self._arms[arm] = self._writer(str(self._folder / arm))
            # A resumed run repeats rounds after its checkpoint: with this TensorBoard drops the old ones.
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(arm, event["time"], step, session_log=start)
        value = self._summaries.Summary.Value
        summary = self._summaries.Summary(value=[value(tag=tag, simple_value=n) for tag, n in numbers.items()])
        self._write(arm, event["time"], step, summary=summary)
        self._arms[arm].flush()

    def _write(self, arm: str, time: float, step: int, **content: Any) -> None:
        self._arms[arm].add_event(self._events.Event(wall_time=time, step=step, **content))

    def close(self) -> None:
        """Write everything out."""
        for writer in self._arms.values():
            writer.close()


class WeightsAndBiases:
    """Writes an offline run below `wandb/` (send it with `wandb sync`), or follows WANDB_MODE if set.

    Args:
        run_dir: the run directory.
        run_name: the name shown.
    """

    def __init__(self, run_dir: Path, run_name: str) -> None:
        mode = os.environ.get("WANDB_MODE") or "offline"
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            os.environ.setdefault("WANDB_SILENT", "true")
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fedloom"), name=run_name, dir=str(run_dir), mode=mode
        )
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def __call__(self, event: Event) -> None:
        """Record one event."""
        if event["event"] == "start":
            self._run.config.update(settings_of(event))
        found = numbers_of(event)
        if found is not None:
            arm, step, numbers = found
            self._run.log({"round": step, **{f"{arm}/{key}": number for key, number in numbers.items()}})

    def close(self) -> None:
        """Write everything out."""
        self._run.finish()


class MLflow:
    """Writes a database below `mlflow/`, or to the server in MLFLOW_TRACKING_URI where that is set.

    Args:
        run_dir: the run directory.
        run_name: the name shown.
    """

    def __init__(self, run_dir: Path, run_name: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = importlib.import_module("mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or None
        artifacts: str | None = None
        if uri is None:
            folder = (run_dir / "mlflow").resolve()
            folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name("fedloom")
        number = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment("fedloom", artifact_location=artifacts)
        )
        self._run_id: str = self._client.create_run(number, run_name=run_name).info.run_id

    def __call__(self, event: Event) -> None:
        """Record one event."""
        if event["event"] == "start":
            for key, value in settings_of(event).items():
                self._client.log_param(self._run_id, key, value)
        found = numbers_of(event)
        if found is not None:
            arm, step, numbers = found
            for key, number in numbers.items():
                self._client.log_metric(
                    self._run_id, f"{arm}/{key}", number, timestamp=round(event["time"] * 1000), step=step
                )

    def close(self) -> None:
        """Write everything out."""
        self._client.set_terminated(self._run_id, end_time=round(time.time() * 1000))


_TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
