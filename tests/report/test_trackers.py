from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fedloom.report.events import read_events
from fedloom.report.trackers import open_tracker


def follow(name: str, finished_run: Path) -> None:
    tracker = open_tracker(name, finished_run, "my run")
    for event in read_events(finished_run / "events.jsonl"):
        tracker(event)
    tracker.close()


def test_unknown_tracker() -> None:
    with pytest.raises(ValueError, match=r"trackers: 'tensorbord' is not one of.*tensorboard"):
        open_tracker("tensorbord", Path(), "run")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_missing_package_names_key_value_and_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=f"trackers: '{name}'.*") as caught:
        open_tracker(name, tmp_path, "run")
    assert f'pip install "fedloom[{name}]"' in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard(finished_run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow("tensorboard", finished_run)
    assert {folder.name for folder in (finished_run / "tensorboard").iterdir()} == {
        "base",
        "federated",
        "local",
    }
    events = EventAccumulator(str(finished_run / "tensorboard" / "federated"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [point.step for point in losses] == [1, 2, 3]
    assert [point.value for point in losses] == pytest.approx([2.0, 1.0, 2 / 3])
    assert events.Scalars("test_own/accuracy")[0].value == pytest.approx(0.6)


def test_tensorboard_forgets_the_rounds_that_a_resumed_run_repeats(finished_run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow("tensorboard", finished_run)
    rounds = [event for event in read_events(finished_run / "events.jsonl") if event["event"] == "round"]
    resumed = open_tracker("tensorboard", finished_run, "my run")
    resumed({**rounds[2], "time": rounds[2]["time"] + 60, "loss": 0.25})
    resumed.close()
    events = EventAccumulator(str(finished_run / "tensorboard" / "federated"))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [
        (1, 2.0),
        (2, 1.0),
        (3, 0.25),
    ]


def test_wandb_stays_offline(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    follow("wandb", finished_run)
    assert list((finished_run / "wandb").glob("offline-run-*/*.wandb"))


def test_mlflow_stays_in_the_run_directory(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(finished_run)
    follow("mlflow", finished_run)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{finished_run / 'mlflow' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fedloom").experiment_id])
    assert (run.info.run_name, run.info.status) == ("my run", "FINISHED")
    assert run.data.params["device"] == "cpu"
    history = client.get_metric_history(run.info.run_id, "federated/train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
