"""A cell is a run as `fedloom run` makes it; what runs share changes nothing in them."""

import json

import pytest

import fedloom
from fedloom.recipe import load_recipe
from tests.compare import VARIANTS, results
from tests.federated_runs import outcome

SHORT = ["federation.rounds=1", "evaluation={max_examples: 2}"]
CELL_ONLY = {"data", "report.html"}


@pytest.mark.parametrize("place", [0, 1])
def test_a_variants_cell_equals_fedloom_run(recipe_file, undisturbed, tmp_path, place):
    variant = results(undisturbed)["variants"][place]
    overrides = ["seed=1", f"federation.algorithm={json.dumps(VARIANTS[place])}"]
    overrides += [f"{key}={value}" for key, value in variant["chosen"].items()]
    fedloom.run(recipe_file, tmp_path / "run", overrides)
    alone, cell = outcome(tmp_path / "run"), outcome(undisturbed / variant["runs"][1]["folder"])
    for found in (alone, cell):
        found["files"] = [name for name in found["files"] if name not in CELL_ONLY]
    assert cell == alone
    assert load_recipe(undisturbed / variant["runs"][1]["folder"] / "recipe.yaml") == load_recipe(
        tmp_path / "run" / "recipe.yaml"
    )


def test_a_baselines_cell_equals_the_baseline_of_a_run(recipe_file, undisturbed, tmp_path):
    baselines = results(undisturbed)["baselines"]
    rates = [{"kind": one["arm"], "learning_rate": one["chosen"]["local.learning_rate"]} for one in baselines]
    metrics = fedloom.run(recipe_file, tmp_path / "run", [f"baselines={json.dumps(rates)}"]).metrics
    assert [one["arm"] for one in baselines] == ["local", "centralized"]
    for one in baselines:
        cell = json.loads((undisturbed / one["runs"][0]["folder"] / "metrics.json").read_text())
        assert cell["baselines"] == {name: metrics["baselines"][name] for name in ("base", one["arm"])}
        assert "eval" not in cell


def test_variants_with_models_of_their_own_equal_runs(recipe_file, tmp_path):
    """Adapters of other ranks and places, a kept prefix of frozen layers, and an algorithm that changes the base."""
    axes = {
        "model.adapter": [{"rank": 2, "layers": [3]}, {"rank": 4, "targets": ["q_proj", "down_proj"]}],
        "federation.algorithm.name": ["flora", "fedavg"],
    }
    found = fedloom.compare(recipe_file, tmp_path / "out", axes, seeds=2, baselines=False, overrides=SHORT)
    variants = found.results["variants"]
    assert len({variant["label"] for variant in variants}) == 4
    for variant, seed in ((variants[1], 1), (variants[2], 1)):
        overrides = [f"{key}={json.dumps(value)}" for key, value in variant["settings"].items()]
        fedloom.run(recipe_file, tmp_path / f"{variant['label']}", [*overrides, *SHORT, f"seed={seed}"])
        alone = outcome(tmp_path / f"{variant['label']}")
        cell = outcome(tmp_path / "out" / variant["runs"][seed]["folder"])
        assert {key: cell[key] for key in ("adapters", "metrics", "events")} == {
            key: alone[key] for key in ("adapters", "metrics", "events")
        }


def test_what_compare_json_says_is_what_the_runs_say(undisturbed):
    found = results(undisturbed)
    assert found["finished"]
    assert found["cells"] == {"done": 8, "planned": 8}
    assert not list(undisturbed.glob("tuning/*/trial-*"))
    for entry in [*found["variants"], *found["baselines"]]:
        arm = entry.get("arm", "federated")
        for run, value in zip(entry["runs"], entry["score"]["values"], strict=True):
            metrics = json.loads((undisturbed / run["folder"] / "metrics.json").read_text())
            result = metrics["eval"] if arm == "federated" else metrics["baselines"][arm]
            assert value == result["loss"] == run["scores"][arm]["loss"]
            assert run["bytes"] == metrics["bytes_up"] + metrics["bytes_down"]
            assert run["clients"]["ada"]["loss"] == result["clients"]["ada"]["loss"]
            assert run["curve"]["loss"][0] == metrics["baselines"]["base"]["loss"] == run["scores"]["base"]["loss"]
            assert run["curve"]["loss"][-1] == value
            assert run["training"]["round"][0] == 1
    first, second = found["variants"]
    pairs = zip(second["score"]["values"], first["score"]["values"], strict=True)
    assert second["difference"]["values"] == [one - other for one, other in pairs]
    assert first["difference"] is None
    assert first["baselines"] == second["baselines"] == {"local": "local", "centralized": "centralized"}


def test_every_variant_has_the_same_budget_for_tuning_and_takes_the_lowest_loss(undisturbed):
    found = results(undisturbed)
    assert found["tuned"] == {
        "keys": ["local.learning_rate"],
        "seed": 1000,
        "split": "validation",
        "trials_each": 3,
        "rounds_each": 3 * 2 + 2 * 1,
    }
    assert 1000 not in found["seeds"]
    for variant in found["variants"]:
        assert sorted(trial["rounds"] for trial in variant["tuning"]) == [2, 3, 3]
        assert [trial["halted"] for trial in variant["tuning"]].count(True) == 1
        whole = [trial for trial in variant["tuning"] if not trial["halted"]]
        assert variant["chosen"] == min(whole, key=lambda trial: trial["loss"])["values"]
    for baseline in found["baselines"]:
        assert len(baseline["tuning"]) == 3
        assert baseline["chosen"] in [trial["values"] for trial in baseline["tuning"]]


def test_a_variant_that_diverges_is_recorded_and_the_others_go_on(recipe_file, tmp_path):
    axes = {"local.learning_rate": [1e38, 3e-3]}
    options = {"seeds": 2, "baselines": False, "overrides": ["local.optimizer=sgd", "local.max_gradient_norm=null"]}
    found = fedloom.compare(recipe_file, tmp_path / "out", axes, **options).results
    broken, sound = found["variants"]
    assert found["finished"]
    assert "is not a finite number" in broken["runs"][0]["failed"]
    assert broken["score"] == {"mean": None, "low": None, "high": None, "values": [None, None]}
    assert None not in sound["score"]["values"]
    assert sound["difference"]["values"] == [None, None]
    stamp = (tmp_path / "out" / broken["runs"][0]["folder"] / "failed.json").stat().st_mtime_ns
    fedloom.compare(recipe_file, tmp_path / "out", axes, resume=True, **options)
    assert (tmp_path / "out" / broken["runs"][0]["folder"] / "failed.json").stat().st_mtime_ns == stamp
