"""Chosen layers of an encoder with a trained head: the head is shared, whichever layers are."""

import json
from pathlib import Path

import safetensors.torch

import fedloom
from fedloom.inspection import evaluate_run
from fedloom.model.tensor_names import layer_of
from fedloom.report.events import read_events
from tests.encoders import tiny_bert

GOOD, BAD = ("great", "good", "best", "fun"), ("terrible", "dull", "slow", "bad")


def written(path: Path) -> Path:
    rows = [
        {"text": f"it was {words[place % 4]} , {words[number % 4]} film", "label": label, "owner": f"c{number}"}
        for number in range(4)
        for place in range(8)
        for label, words in (("neg", BAD), ("pos", GOOD))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_head_is_always_shared(tmp_path: Path) -> None:
    values = {
        "name": "classes",
        "model": {
            "base": str(tiny_bert(tmp_path / "bert")),
            "dtype": "float32",
            "adapter": {"rank": 2, "targets": ["query", "value"]},
        },
        "task": {"kind": "classification"},
        "data": {
            "source": str(written(tmp_path / "rows.jsonl")),
            "fields": {"text": "text", "label": "label"},
            "partition": {"kind": "by_key", "key": "owner"},
        },
        "federation": {"rounds": 2, "clients_per_round": 3, "layers": {"share": 0.5, "examples": 4}},
        "local": {"steps": 2, "batch_size": 4, "sparse": {"share": 0.3}},
        "evaluation": {"max_examples": 4},
        "runtime": {"threads": 1},
    }
    out = fedloom.run(values, tmp_path / "run").out
    choice = json.loads((out / "layers.json").read_text())
    assert choice["layers"] == [0, 1]
    assert len(choice["chosen"]) == 1
    assert all(importance > 0 for importance in choice["importances"])
    kept = safetensors.torch.load_file(next(out.glob("clients/*/federated/2.safetensors")))
    own = [name for name in kept if name.startswith("adapter/")]
    other = 1 - choice["chosen"][0]
    assert {layer_of(name) for name in own} == {other}
    # Each layer has A [2, 32] and B [32, 2] of two targets; the head 2 classes of 32 inputs and a bias each.
    tensors = 4 * (2 * (2 * 32 + 32 * 2) + 2 * 32 + 2)
    rounds = [event for event in read_events(out / "events.jsonl") if event["event"] == "round"]
    for event in rounds:
        for key in ("bytes_up", "bytes_down"):
            assert 0 < event[key] / 3 - tensors < 1024
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["eval"]["personal"]["loss"] != metrics["eval"]["own"]["loss"]
    assert evaluate_run(out) == metrics["eval"]
