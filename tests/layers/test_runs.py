"""Whole runs with chosen layers, by the command line: the neutral setting, what a run leaves, and comparisons."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import yaml

import fedloom
import fedloom.federation
import fedloom.inspection
from fedloom.model.tensor_names import layer_of
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from tests.federated_runs import outcome
from tests.layers.federations import Values, settings
from tests.processes import carry_out

NEUTRAL = "--set federation.layers.share=1 --set local.sparse.share=1 --set local.curriculum.start=1"


def written(folder: Path, values: Values) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))


def test_all_layers_are_the_plain_federation(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, settings(source, None))
    carry_out("fedloom run recipe.yaml --out plain")
    carry_out(f"fedloom run recipe.yaml --out neutral {NEUTRAL}")
    adapters = [(tmp_path / out / "adapter" / "adapter_model.safetensors").read_bytes() for out in ("plain", "neutral")]
    assert adapters[0] == adapters[1]
    metrics = [json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("plain", "neutral")]
    for key in ("bytes_up", "bytes_down", "tokens"):
        assert metrics[0][key] == metrics[1][key]
    # Nothing is anybody's own.
    assert not (tmp_path / "neutral" / "clients").exists()
    assert metrics[1]["eval"].pop("personal")["loss"] == metrics[0]["eval"]["own"]["loss"]
    assert metrics[0]["eval"] == metrics[1]["eval"]


def test_what_a_run_leaves(source: Path, tmp_path: Path) -> None:
    model = {"adapter": {"rank": 4, "layers": [3, 4, 5]}}
    result = fedloom.run(settings(source, {"number": 2}, {"share": 0.5}, model=model), tmp_path / "run")
    choice = json.loads((tmp_path / "run" / "layers.json").read_text())
    assert choice["layers"] == [3, 4, 5]
    assert len(choice["chosen"]) == 2
    best = sorted(choice["layers"], key=lambda layer: -choice["importances"][layer - 3])[:2]
    assert choice["chosen"] == sorted(best)
    events = read_events(tmp_path / "run" / "events.jsonl")
    logged = [event for event in events if event["event"] == "layers"]
    assert len(logged) == 1
    assert {key: logged[0][key] for key in ("chosen", "importances")} == {
        key: choice[key] for key in ("chosen", "importances")
    }
    # The totals count what the stage has sent.
    rounds = [event for event in events if event["event"] == "round"]
    for key in ("bytes_up", "bytes_down"):
        assert result.metrics[key] == choice[key] + sum(event[key] for event in rounds)
        assert choice[key] > 0
    chosen = ", ".join(map(str, choice["chosen"]))
    assert f"2 of 3: layers {chosen}, counted from 0" in (tmp_path / "run" / "report.html").read_text()
    # What is exported is what clients share: B of the other layer is zero.
    exported = safetensors.torch.load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    for name, value in exported.items():
        if "lora_B" in name:
            assert bool(value.any()) == (layer_of(name) in choice["chosen"])
    found = result.metrics["eval"]
    assert found["personal"]["loss"] != found["own"]["loss"]
    assert fedloom.inspection.evaluate_run(tmp_path / "run") == found


def test_a_comparisons_runs_share_what_clients_measured(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each of them is what it is alone."""
    model = {"adapter": {"rank": 4, "layers": [3, 4, 5]}}
    values = settings(source, {"number": 1}, {"share": 0.5}, model=model, local={"steps": 1})
    values["baselines"] = ["centralized"]
    rates = {"local.learning_rate": [1e-3, 2e-3]}
    out = fedloom.compare(values, tmp_path / "comparison", rates, seeds=1).out
    cells = sorted(path.parent for path in out.glob("cells/*/*/layers.json"))
    assert len(cells) == 2
    choices = [json.loads((cell / "layers.json").read_text()) for cell in cells]
    # Measured once: the very same seconds.
    assert choices[0] == choices[1]
    alone = fedloom.run(values, tmp_path / "alone", ["local.learning_rate=0.001"])
    # Baselines share no layers: a recipe with local.sparse leaves that of theirs valid.
    baselines = [load_recipe(path) for path in out.glob("cells/*/*/recipe.yaml") if path.parent not in cells]
    assert {(one.baselines[0].kind, one.local.sparse, one.federation.layers) for one in baselines} == {
        ("centralized", None, None)
    }
    adapters = {(cell / "adapter" / "adapter_model.safetensors").read_bytes() for cell in cells}
    assert (alone.adapter / "adapter_model.safetensors").read_bytes() in adapters


def test_a_run_killed_between_the_choice_and_its_first_checkpoint_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"adapter": {"rank": 4, "layers": [4, 5]}}
    values = settings(source, {"number": 1}, {"share": 0.5}, model=model, local={"steps": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(fedloom.federation, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            fedloom.run(values, tmp_path / "killed")
    choice = (tmp_path / "killed" / "layers.json").read_bytes()
    fedloom.run(values, tmp_path / "killed", resume=True)
    # Not measured again: the very same seconds.
    assert (tmp_path / "killed" / "layers.json").read_bytes() == choice
    fedloom.run(values, tmp_path / "undisturbed")
    found, expected = outcome(tmp_path / "killed"), outcome(tmp_path / "undisturbed")
    assert found == expected
