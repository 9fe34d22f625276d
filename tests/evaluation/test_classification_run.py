"""Classifications by the command line: what a run says of itself, ends at, and evaluates to again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedloom.errors import UserError
from fedloom.inspection import evaluate_run, generate_answer
from fedloom.report.events import read_events
from tests.encoders import tiny_bert
from tests.processes import carry_out

WORDS = {"head": "label_words", "words": ["bad", "good"], "pattern": "{text} it was {mask} ."}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def run(folder: Path, base: Path, **sections: Any) -> dict[str, Any]:
    """Classes that one word of the text tells."""
    draw = np.random.default_rng(0)
    rows = []
    for n in range(120):
        words = draw.choice(["film", "cast", "story", "the", "it"], 4).tolist()
        words.insert(int(draw.integers(5)), ("terrible", "great")[n % 2])
        rows.append({"text": " ".join(words), "label": ("neg", "pos")[n % 2], "split": ("train", "test")[n % 3 == 0]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "films",
        "model": {"base": str(base), "adapter": {"kind": "lora", "rank": 4, "targets": ["query", "value"]}},
        "task": {"kind": "classification"},
        "data": {
            "source": str(folder / "rows.jsonl"),
            "fields": {"text": "text", "label": "label"},
            "partition": {"kind": "label_prior", "clients": 3, "key": "label"},
            "split": {"key": "split"},
            "global_test": {"fraction": 0.2},
        },
        "federation": {"rounds": 12, "clients_per_round": 3},
        "local": {"epochs": 2, "batch_size": 8, "learning_rate": 0.02},
        "runtime": {"threads": 1},
        **sections,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    carry_out(f"fedloom run {folder / 'recipe.yaml'} --out {folder / 'run'}")
    metrics: dict[str, Any] = json.loads((folder / "run" / "metrics.json").read_text())
    return metrics


def test_a_run_ends_at_the_accuracy_it_was_to_reach(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = {"measure": "matthews", "value": 0.7}
    metrics = run(
        tmp_path, base, evaluation={"every": 1}, baselines=["local"],
        federation={"rounds": 12, "clients_per_round": 3, "stop": {"target": target}},
    )  # fmt: skip
    result = metrics["eval"]
    assert metrics["stop"]["reached"] == result["matthews"] >= 0.7
    assert result["global"]["accuracy"] == result["accuracy"] > metrics["baselines"]["base"]["accuracy"]
    for block in (result["own"], *result["clients"].values(), metrics["baselines"]["local"]["global"]):
        assert {"loss", "accuracy", "macro_f1", "matthews", "examples"} <= block.keys()
    for measure in ("accuracy", "macro_f1", "matthews"):
        clients = [client[measure] for client in result["clients"].values()]
        assert result["own"][measure] == pytest.approx(np.mean(clients))
    assert evaluate_run(tmp_path / "run") == result
    printed = capsys.readouterr().out
    assert "macro F1" in printed
    assert "Matthews" in printed
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Matthews" in page
    assert "stopped after round" in printed
    evaluated = [event["result"] for event in read_events(tmp_path / "run" / "events.jsonl") if "result" in event]
    assert all("macro_f1" in one for one in evaluated)
    with pytest.raises(UserError, match="is a classification, which answers with a class"):
        generate_answer(tmp_path / "run", "a great film", 5, True)


def test_label_words_and_attackers(base: Path, tmp_path: Path) -> None:
    federation = {"rounds": 2, "clients_per_round": 3}
    honest, flipped = tmp_path / "honest", tmp_path / "flipped"
    found = []
    for folder, attack in ((honest, {}), (flipped, {"attack": {"kind": "label_flip", "share": 0.7}})):
        folder.mkdir()
        task = {"kind": "classification", **WORDS}
        found.append(run(folder, base, task=task, federation={**federation, **attack})["eval"])
    # Two of three clients learn the classes the other way round.
    assert found[1]["loss"] > found[0]["loss"]
    assert found[0].keys() == found[1].keys() >= {"accuracy", "macro_f1", "matthews"}
