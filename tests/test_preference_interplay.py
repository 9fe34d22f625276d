"""Preferences with all the rest: attackers and baselines, resumed, in two processes, compared, by the real commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedloom
from fedloom import federation
from fedloom.checkpoint import RunState
from fedloom.cli import app
from tests.federated_runs import outcome
from tests.preference_runs import recipe, write_pairs

OWNERS = ("ada", "bo", "cyd", "dee")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", OWNERS)


def small(pairs: Path, task: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Three of four clients, one of which has all its preferences the wrong way round."""
    attack = {"kind": "label_flip", "share": 0.25}
    federation = {"rounds": 2, "clients_per_round": 3, "attack": attack}
    values = recipe(pairs, task, federation=federation, evaluation={"every": 1}, **sections)
    values["baselines"] = ["local", "centralized"]
    return values


def interrupted(commit: Callable[[Path, RunState], None]) -> Callable[[Path, RunState], None]:
    """Break off before the first round is committed, when it has been trained."""

    def committed(folder: Path, state: RunState) -> None:
        if state.round == 1:
            raise KeyboardInterrupt
        commit(folder, state)

    return committed


def tell(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("loss", ["sigmoid", *(pytest.param(one, marks=pytest.mark.slow) for one in ("kto", "simpo"))])
def test_cohorts_and_resumed_runs_end_with_the_same_bytes(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    found = []
    for name, cohort in (("alone", 1), ("resumed", 3)):
        out = tmp_path / name
        values = small(pairs, {"loss": loss}, runtime={"cohort": cohort})
        if name == "resumed":
            with monkeypatch.context() as context:
                context.setattr(federation, "save_checkpoint", interrupted(federation.save_checkpoint))
                with pytest.raises(KeyboardInterrupt):
                    fedloom.run(values, out)
            assert (out / "references").is_dir() == (loss != "simpo")
            # What the reference makes of responses is kept; without the file it is computed anew, to the bit.
            shutil.rmtree(out / "references", ignore_errors=True)
        fedloom.run(values, out, resume=name == "resumed")
        found.append(outcome(out))
    assert found[0]["adapters"] == found[1]["adapters"]
    assert found[0]["metrics"] == found[1]["metrics"]


@pytest.mark.long
@pytest.mark.parametrize("loss", ["kto", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_two_processes_equal_one(pairs: Path, tmp_path: Path, loss: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(small(pairs, {"loss": loss})))
    tell("run", file, "--out", tmp_path / "alone")
    tell("run", file, "--out", tmp_path / "shared", "--processes", 2)
    assert outcome(tmp_path / "shared")["adapters"] == outcome(tmp_path / "alone")["adapters"]
    assert outcome(tmp_path / "shared")["metrics"] == outcome(tmp_path / "alone")["metrics"]


def test_losses_are_compared_over_one_base(pairs: Path, tmp_path: Path) -> None:
    """Losses without a reference, with one, and on single answers, whose examples are others."""
    values = small(pairs, {})
    values["baselines"] = []
    losses = ["ipo", "kto", "orpo"]
    found = fedloom.compare(values, tmp_path / "all", {"task.loss": losses}, seeds=1, baselines=False)
    assert len(found.results["variants"]) == 3
    for variant, loss in zip(found.results["variants"], losses, strict=True):
        cell = json.loads((found.out / variant["runs"][0]["folder"] / "metrics.json").read_text())
        alone = fedloom.run({**values, "task": {"kind": "dpo", "loss": loss}}, tmp_path / loss).metrics
        assert cell["eval"] == alone["eval"]


def test_a_run_can_be_evaluated_and_asked_again(pairs: Path, tmp_path: Path) -> None:
    values = small(pairs, {})
    values["baselines"] = []
    metrics = fedloom.run(values, tmp_path / "run").metrics
    told = json.loads(tell("evaluate", tmp_path / "run"))
    assert told == metrics["eval"]
    assert isinstance(tell("generate", tmp_path / "run", "word 1 of: river lamp", "--max-new-tokens", 3), str)
    assert "% of the pairs" in tell("data", tmp_path / "run" / "recipe.yaml")
