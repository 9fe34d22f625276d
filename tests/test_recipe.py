"""The recipe's contract: its names, its schema, and that a resolved recipe means the same."""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fedloom.aggregation.registry import ALGORITHMS, parameters_model
from fedloom.cli import main
from fedloom.errors import UserError
from fedloom.recipe import Recipe, load_recipe, recipe_yaml, validate_recipe
from fedloom.recipe.algorithm import AlgorithmConfig
from fedloom.recipe.shipped import heading, shipped_recipes

# Every name and value that a recipe of the first release may hold; it may grow, nothing may go.
CONTRACT = """
name: dolly
seed: 3
model:
  base: pocket
  dtype: auto
  adapter: {kind: lora, rank: 8, alpha: 16, targets: [q_proj, v_proj]}
data:
  source: dolly.jsonl
  fields: {prompt: instruction, context: context, response: response}
  template: alpaca
  max_tokens: 512
  partition: {kind: by_key, key: client}
task: {kind: sft}
federation: {rounds: 10, clients_per_round: 4, algorithm: {name: fedavg}}
local: {steps: 10, batch_size: 8, optimizer: adamw, learning_rate: 1.0e-3, schedule: cosine}
evaluation: {every: 5, split: test}
baselines: [local, centralized]
runtime: {kind: in_process, cohort: auto}
"""
PARTITIONS: list[dict[str, Any]] = [
    {"kind": "by_key", "key": "client"},
    {"kind": "iid", "clients": 8},
    {"kind": "dirichlet", "clients": 8, "key": "category", "alpha": 0.1, "min_examples": 2},
    {"kind": "quantity", "clients": 8, "alpha": 0.1},
    {"kind": "files"},
]


def round_trip(recipe: Recipe) -> Recipe:
    return validate_recipe(yaml.safe_load(recipe_yaml(recipe)))


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda partition: partition["kind"])
def test_contract(partition: dict[str, Any]) -> None:
    given_ = yaml.safe_load(CONTRACT)
    given_["data"]["partition"] = partition
    recipe = validate_recipe(given_)
    resolved = yaml.safe_load(recipe_yaml(recipe))
    assert round_trip(recipe) == recipe
    assert [baseline["kind"] for baseline in resolved.pop("baselines")] == given_.pop("baselines")
    assert held(resolved, given_) == given_


def held(resolved: Any, given_: Any) -> Any:
    """The part of a resolved recipe that the given one speaks of."""
    if not isinstance(given_, dict):
        return resolved
    return {key: held(resolved[key], value) for key, value in given_.items()}


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_resolve_and_say_what_they_are(name: str) -> None:
    recipe = load_recipe(name)
    assert round_trip(recipe) == recipe
    assert heading(shipped_recipes()[name]).about


def test_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(tmp_path / "empty.yaml") == load_recipe({}) == Recipe()


numbers = st.floats(1e-9, 1e3, allow_nan=False)
counts = st.integers(1, 10**6)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": names,
    "seed": st.integers(0, 2**31),
    "model.base": texts,
    "model.dtype": st.sampled_from(["auto", "float32", "bfloat16"]),
    "model.adapter.rank": counts,
    "model.adapter.alpha": numbers,
    "model.adapter.targets": st.one_of(st.just("all-linear"), st.lists(texts, min_size=1, max_size=3)),
    "data.source": st.one_of(texts, st.lists(texts, min_size=1, max_size=3)),
    "data.template": texts,
    "data.max_tokens": st.integers(8, 10**6),
    "data.partition": st.sampled_from(PARTITIONS),
    "data.split": st.one_of(st.just({"key": "split"}), st.fixed_dictionaries({"validation": st.floats(0.01, 0.4)})),
    "data.global_test": st.sampled_from([{"fraction": 0.1}, {"where": {"client": -1}}, {"source": "test.jsonl"}]),
    "federation.clients_per_round": st.integers(1, 8),
    "federation.rounds": st.integers(5, 100),
    "federation.algorithm.weighting": st.sampled_from(["examples", "tokens", "uniform"]),
    "local.steps": counts,
    "local.epochs": counts,
    "local.optimizer": st.sampled_from(["adamw", "sgd"]),
    "local.learning_rate": numbers,
    "local.epsilon": numbers,
    "local.momentum": st.floats(0, 0.99),
    "local.max_gradient_norm": st.one_of(st.none(), numbers),
    "evaluation.every": st.integers(1, 5),
    "evaluation.exact_match": st.sampled_from([True, False, "auto"]),
    "evaluation.max_examples": counts,
    "baselines": st.sampled_from([["local"], [{"kind": "centralized", "learning_rate": 1e-4}, "local"]]),
    "runtime.cohort": st.one_of(st.just("auto"), counts),
    "runtime.memory_gb": numbers,
    "trackers": st.lists(st.sampled_from(["tensorboard", "wandb", "mlflow"]), unique=True),
}


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=12))
    return [f"{key}={json.dumps(draw(VALUES[key]))}" for key in keys]


@settings(max_examples=120, deadline=None)
@given(overrides())
def test_resolved_recipe_means_the_same(given_: list[str]) -> None:
    try:
        recipe = load_recipe({}, given_)
    except UserError:
        assume(False)  # options that have no effect together
    assert round_trip(recipe) == recipe
    assert recipe_yaml(round_trip(recipe)) == recipe_yaml(recipe)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E+2", 100.0), ("-.5e1", -5.0), ("1.5", 1.5), ("12", 12), ("e3", "e3")]
)
def test_numbers_are_read_as_people_write_them(text: str, value: object) -> None:
    if isinstance(value, str) or value < 0:  # type: ignore[operator]
        with pytest.raises(UserError, match=f"local.learning_rate: {value!r}"):
            load_recipe({}, [f"local.learning_rate={text}"])
    else:
        assert load_recipe({}, [f"local.learning_rate={text}"]).local.learning_rate == value


@pytest.mark.parametrize(
    ("given_", "steps", "epochs"),
    [(["local.epochs=2"], None, 2), (["local.steps=3"], 3, None), (["local.epochs=2", "local.steps=3"], 3, None)],
)
def test_steps_and_epochs_replace_each_other(given_: list[str], steps: int | None, epochs: int | None) -> None:
    local = load_recipe({"local": {"steps": 7}}, given_).local
    assert (local.steps, local.epochs) == (steps, epochs)


def test_shortened_run_keeps_its_recipe_otherwise() -> None:
    values = {"federation": {"rounds": 10}, "evaluation": {"every": 5, "split": "validation"}}
    assert load_recipe(values, ["federation.rounds=5"]).evaluation.every == 5
    shortened = load_recipe(values, ["federation.rounds=1"])
    assert (shortened.evaluation.every, shortened.evaluation.split) == (None, "validation")
    with pytest.raises(UserError, match=r"evaluation\.every: 5 is above federation\.rounds, 1"):
        load_recipe(values, ["federation.rounds=1", "evaluation.every=5"])


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation, *(m for f in annotation.model_fields.values() for m in models_in(f.annotation))]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


@pytest.mark.parametrize("section", models_in(Recipe), ids=lambda section: section.__name__)
def test_every_key_is_described(section: type[BaseModel]) -> None:
    assert section.__doc__
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def properties(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections = {"Recipe": schema, **schema["$defs"]}
    # The algorithm's section is one of several, each with its own keys.
    for alternative in sections.pop("AlgorithmConfig")["oneOf"]:
        keys = dict(alternative["properties"])
        sections[keys.pop("name")["const"]] = {"properties": keys}
    return {f"{name}.{key}": value for name, s in sections.items() for key, value in s["properties"].items()}


def test_schema_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fedloom", "schema"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    schema = json.loads(capsys.readouterr().out)
    sections = {model.__name__: model for model in models_in(Recipe) if model is not AlgorithmConfig}
    sections |= {name: parameters_model(name) for name in ALGORITHMS}
    expected = {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields}
    assert set(properties(schema)) == expected
    assert [key for key, value in properties(schema).items() if not value.get("description")] == []
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in shipped_recipes().values():
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_a_key_of_a_section_that_was_given_by_its_name():
    values = {"model": {"adapter": "dora"}, "federation": {"algorithm": "fedadam"}, "data": {"source": "a.jsonl"}}
    keys = ["model.adapter.rank=3", "federation.algorithm.tau=0.5", "data.source.examples=7"]
    recipe = load_recipe(values, keys)
    assert (recipe.model.adapter.kind, recipe.model.adapter.rank) == ("dora", 3)
    assert (recipe.federation.algorithm.name, recipe.federation.algorithm.parameters["tau"]) == ("fedadam", 0.5)
    assert (recipe.data.source.path, recipe.data.source.examples) == ("a.jsonl", 7)
