"""Values of --vary and --tune, the grid they span, labels, and how tuning spends its rounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.comparison.grid import folder_name, label_of, parse_options, points, values_around
from fedloom.comparison.halving import best, rungs, total_rounds
from fedloom.comparison.intervals import differences, summarize
from fedloom.comparison.plan import Arguments, make_plan
from fedloom.recipe import load_recipe

SCALARS = st.one_of(
    st.booleans(), st.integers(-9, 9), st.floats(0.001, 9), st.text(st.sampled_from("ab, [{'\""), max_size=5)
)
LISTS = st.lists(SCALARS, max_size=3)
VALUES = st.one_of(SCALARS, LISTS, st.dictionaries(st.sampled_from(["x", "y"]), LISTS, max_size=2))


@given(st.lists(VALUES, min_size=1, max_size=4))
def test_values_are_split_where_they_were_joined(values):
    text = ",".join(json.dumps(value) for value in values)
    assert parse_options("--vary", [f"key={text}"]) == {"key": values}


def test_values_as_a_person_writes_them():
    assert parse_options("--vary", ["model.adapter.targets=[q_proj],[q_proj,v_proj]"]) == {
        "model.adapter.targets": [["q_proj"], ["q_proj", "v_proj"]]
    }
    assert parse_options("--vary", ["a={name: fedadam, server_learning_rate: 0.01},fedavg"]) == {
        "a": [{"name": "fedadam", "server_learning_rate": 0.01}, "fedavg"]
    }
    assert parse_options("--tune", ["local.learning_rate", "b=1e-4,3e-4"]) == {
        "local.learning_rate": None,
        "b": [1e-4, 3e-4],
    }


def test_the_last_key_runs_fastest():
    assert points({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]
    assert points({}) == [{}]


def test_labels_and_folders():
    keys = ["federation.algorithm", "model.adapter.targets"]
    point = {keys[0]: {"name": "fedprox", "mu": 0.1}, keys[1]: ["q_proj", "v_proj"]}
    label = label_of(point, keys)
    assert label == "fedprox mu=0.1, targets=[q_proj,v_proj]"
    assert folder_name(label, []) == "fedprox_mu=0.1_targets=_q_proj_v_proj"
    assert folder_name("a/../b", ["a_.._b"]) == "a_.._b-2"
    kinds = [{"model.adapter": value} for value in ("dora", {"kind": "dora", "rank": 4})]
    assert [label_of(kind, ["model.adapter"]) for kind in kinds] == ["adapter=dora", "adapter=dora rank=4"]
    both = ["model.adapter.alpha", "data.partition.alpha"]
    assert label_of(dict.fromkeys(both, 0.5), both) == "model.adapter.alpha=0.5, data.partition.alpha=0.5"


def test_the_default_grid_is_even_in_the_logarithm():
    recipe = load_recipe({"local": {"learning_rate": 2e-3}})
    assert values_around(recipe, "local.learning_rate") == [2e-4, 6.32e-4, 2e-3, 6.32e-3, 2e-2]


def test_an_algorithm_comes_with_its_own_parameters():
    recipe = {"federation": {"algorithm": {"name": "fedprox", "mu": 0.7}}, "model": {"base": "pocket"}}
    plan = make_plan(Arguments(recipe, vary={"federation.algorithm.name": ["fedprox", "fedadam"]}))
    fedprox, fedadam = (variant.recipe.federation.algorithm for variant in plan.variants)
    assert fedprox.parameters["mu"] == 0.7
    assert fedadam == load_recipe({"federation": {"algorithm": "fedadam"}}).federation.algorithm


def test_another_kind_keeps_the_keys_it_knows_all_of():
    recipe = {"model": {"adapter": {"rank": 3, "alpha": 5, "targets": ["q_proj"]}}}
    plan = make_plan(Arguments(recipe, vary={"model.adapter.kind": ["lora", "dora", "ia3"]}))
    lora, dora, ia3 = (variant.recipe.model.adapter for variant in plan.variants)
    assert dora.model_dump() == {**lora.model_dump(), "kind": "dora"}
    assert ia3 == load_recipe({"model": {"adapter": "ia3"}}).model.adapter


@pytest.mark.parametrize("name", ["federation.algorithm.name", "federation.algorithm"])
def test_a_section_does_not_replace_keys_that_were_varied_before_it(name):
    axes = {"federation.algorithm.mu": [0.1, 0.2], name: ["fedprox"]}
    plan = make_plan(Arguments({}, vary=axes))
    assert [variant.recipe.federation.algorithm.parameters["mu"] for variant in plan.variants] == [0.1, 0.2]


def test_baselines_are_shared_by_what_they_depend_on():
    axes = {"federation.algorithm.name": ["fedavg", "scaffold"], "local.steps": [2, 3]}
    plan = make_plan(Arguments({"baselines": [{"kind": "local", "learning_rate": 0.1}]}, vary=axes))
    assert [one.label for one in plan.variants] == [
        "fedavg, steps=2",
        "fedavg, steps=3",
        "scaffold, steps=2",
        "scaffold, steps=3",
    ]
    assert [one.label for one in plan.baselines] == ["local, steps=2", "local, steps=3"]
    assert [dict(one.baselines) for one in plan.variants[1:3]] == [
        {"local": "local, steps=3"},
        {"local": "local, steps=2"},
    ]
    assert plan.baselines[0].recipe.local.learning_rate == 0.1
    # A rate that the baseline sets itself does not depend on the federation's.
    rates = {"local.learning_rate": [1e-3, 1e-2]}
    plan = make_plan(Arguments({"baselines": [{"kind": "local", "learning_rate": 0.1}, "centralized"]}, vary=rates))
    assert [one.label for one in plan.baselines] == [
        "local",
        "centralized, learning_rate=0.001",
        "centralized, learning_rate=0.01",
    ]


def test_halving_by_hand():
    assert rungs(5, 8) == [(5, 2), (3, 4), (2, 8)]
    assert total_rounds(5, 8) == 5 * 2 + 3 * 2 + 2 * 4
    # Of one round there is nothing to halve: all values are compared after it.
    assert rungs(5, 1) == [(5, 1)]
    assert best([3.0, None, 1.0, 1.0], 3) == [2, 3, 0]


@given(st.integers(2, 40), st.integers(1, 100))
def test_halving_ends_with_whole_runs_and_spends_no_more_than_a_grid(values, rounds):
    course = rungs(values, rounds)
    assert course[0][0] == values
    assert course[-1][1] == rounds
    assert [until for _, until in course] == sorted({until for _, until in course})
    assert total_rounds(values, rounds) <= values * rounds


def test_intervals_are_students():
    # t(0.975, 2) = 4.30265, s = 1: half the width is 4.30265 / sqrt(3).
    found = summarize([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == pytest.approx(2.48414, abs=1e-5)
    assert 2.0 - found["low"] == pytest.approx(2.48414, abs=1e-5)
    assert summarize([None, 4.0]) == {"mean": 4.0, "low": None, "high": None, "values": [None, 4.0]}
    assert differences([1.0, None, 3.0], [0.5, 1.0, None]) == [0.5, None, None]
