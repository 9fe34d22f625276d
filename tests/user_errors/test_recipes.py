"""A mistake in a recipe ends in exit code 2 and one clear line, before any weight is read, and leaves nothing."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedloom.model.base import POCKET
from tests.federated_runs import recipe
from tests.user_errors import Refused, contains, rewrite

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sede=1", ["sede: unknown key", "name, seed, model", "'seed'"]),
        ("files=1", ["files: unknown key"]),
        ("model.bse=x", ["model.bse: unknown key", "base, dtype, adapter", "'base'"]),
        ("data.partition={kind: iid, clientz: 3}", ["data.partition.clientz", "kind, clients", "'clients'"]),
        ("federation.algorithm.mu=1", ["federation.algorithm: 'mu' is no parameter of fedavg", "weighting"]),
        ("federation.algorithm.name=fedavgg", ["federation.algorithm.name: 'fedavgg'", "did you mean 'fedavg'"]),
        ("federation.algorithm=fedavgg", ["federation.algorithm.name: 'fedavgg'", "mean 'fedavg'"]),
        ("data.partition.kind=bykey", ["data.partition.kind: 'bykey'", "dirichlet", "'by_key'"]),
        ("data.partition={}", ["data.partition: needs the key 'kind'"]),
        ("local.optimizer=adam", ["local.optimizer: 'adam'", "adamw, sgd", "'adamw'"]),
        ("local.schedule=cosin", ["local.schedule: 'cosin'", "constant, linear, cosine", "'cosine'"]),
        ("data.template=alpacca", ["data.template: 'alpacca'", "chat, plain", "'alpaca'"]),
        ("data.template=no.jinja", ["data.template: no such file: no.jinja"]),
        ("model.dtype=float16", ["model.dtype: 'float16'", "auto, float32, bfloat16"]),
        ("model.adapter.kind=lorra", ["model.adapter.kind: 'lorra'", "'lora'"]),
        ("task.kind=ppo", ["task.kind: 'ppo'", "sft, classification, dpo"]),
        ("evaluation.split=tst", ["evaluation.split: 'tst'", "test, validation", "'test'"]),
        ("baselines=[locall]", ["baselines.0.kind: 'locall'", "local, centralized", "'local'"]),
        ("baselines=local, centralized", ["baselines: 'local, centralized' is not", "write [local, centralized]"]),
        ("baselines=[local, local]", ["baselines: each baseline once"]),
        ("trackers=[tensorbord]", ["trackers.0: 'tensorbord'", "wandb, mlflow", "'tensorboard'"]),
        ("runtime.kind=inprocess", ["runtime.kind: 'inprocess'", "'in_process'"]),
        ("runtime.device=gpu", ["runtime.device: 'gpu'", "auto, cpu or cuda:N"]),
        ("runtime.device=cuda:99", ["runtime.device: 'cuda:99'", "CUDA devices are here"]),
        ("runtime.cohort=atuo", ["runtime.cohort: 'atuo' is not a whole number or 'auto'", "mean 'auto'"]),
        ("runtime.cohort=0", ["runtime.cohort: 0 is not a number from 1 up or 'auto'"]),
        ("model.adapter.targets=all-linar", ["'all-linar' is not a list or 'all-linear'", "mean 'all-linear'"]),
        ("model.adapter.targets=[1]", ["model.adapter.targets.0: 1 is not text"]),
        ("model.adapter.targets=[]", ["model.adapter.targets: needs at least one"]),
        ("model.adapter.targets=[q_prj]", ["model.adapter.targets: 'q_prj'", "k_proj", "mean 'q_proj'"]),
        ("model.adapter.layers=[]", ["model.adapter.layers: needs at least one number"]),
        ("model.adapter.layers=[6]", ["model.adapter.layers: 6 is no decoder layer", "0, 1, 2, 3, 4, 5"]),
        ("runtime.prefix_cache_gb=1", ["runtime.prefix_cache_gb has no effect"]),
        ("evaluation.exact_match=atuo", ["'atuo' is not true or false or 'auto'", "mean 'auto'"]),
        ("data.source=3", ["data.source: 3 is not text or a section with the keys path", "or a list"]),
        ("data.source=[]", ["data.source: the list is empty"]),
        ("data.source=a.csv,b.csv", ["data.source: no such file", "a list: [a.csv, b.csv]"]),
        ("local.lr=1e-4", ["local.lr: unknown key", "mean 'learning_rate'"]),
        ("model.adapter.target_modules=[q_proj]", ["target_modules: unknown key", "mean 'targets'"]),
        ("local.learning_rate='1e-4'", ["local.learning_rate: '1e-4' is not a number", "leave the quotes out"]),
        ("data.fields.prompt=no", ["data.fields.prompt: false is not text", "put it in quotes"]),
        ("data.partition=files", ["data.partition: 'files' is not a section", "write {kind: files, ...}"]),
        ("model.adapter.targets=q_proj", ["'q_proj' is not a list or 'all-linear'", "write [q_proj]"]),
    ],
)
def test_unknown_keys_and_misspelt_values(refused_early: Refused, rows: Path, override: str, parts: list[str]) -> None:
    contains(refused_early(recipe(rows), "--set", override), *parts)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("novalue", ["--set 'novalue'", "KEY=VALUE"]),
        ("=3", ["--set '=3'", "KEY=VALUE"]),
        ("local.steps=", ["--set local.steps=: needs a value", "null"]),
        ("seed={", ["--set seed line 1: not valid YAML"]),
        ("name.x=1", ["--set name.x: name is 'test', not a section of keys"]),
        ("data.partition.key.x=1", ["data.partition.key is 'owner', not a section"]),
        ("local.learnin_rate=1", ["local.learnin_rate: unknown key", "'learning_rate'"]),
        ("name=a b", ["name: 'a b'"]),
        ("name=2020-01-01", ["name: ", "is not text"]),
        ("federation.rounds=ten", ["federation.rounds: 'ten' is not a whole number"]),
        ("federation.rounds='3'", ["federation.rounds: '3' is not a whole number"]),
        ("federation.rounds=true", ["federation.rounds: true is not a whole number"]),
        ("federation.rounds=2.5", ["federation.rounds: 2.5 is not a whole number"]),
        ("federation.rounds=-1", ["federation.rounds: -1 is not a number from 1 up"]),
        ("federation=3", ["federation: 3 is not a section", "rounds, clients_per_round"]),
        ("local.learning_rate=fast", ["local.learning_rate: 'fast' is not a number"]),
        ("local.learning_rate=.nan", ["local.learning_rate: nan is not a finite number"]),
        ("local.learning_rate=.inf", ["local.learning_rate: inf is not a finite number"]),
        ("local.learning_rate=0", ["local.learning_rate: 0 is not a number above 0"]),
        ("local.momentum=1", ["local.momentum: 1 is not a number below 1"]),
        ("model.adapter.alpha=.inf", ["model.adapter.alpha: inf is not a finite number"]),
        ("name=null", ["name: null is not text", "leave the key out"]),
        ("baselines=null", ["baselines: null is not a list", "leave the key out"]),
        ("model=null", ["model: null is not a section", "base, dtype, adapter"]),
        ("data.partition=null", ["data.partition: null is not a section"]),
    ],
)
def test_overrides_and_wrong_types(refused_early: Refused, rows: Path, override: str, parts: list[str]) -> None:
    contains(refused_early(recipe(rows), "--set", override), *parts)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["local.momentum=0.9"], ["momentum has no effect on optimizer 'adamw'"]),
        (["local.optimizer=sgd", "local.epsilon=1e-8"], ["epsilon has no effect on optimizer 'sgd'"]),
        (["local={steps: 3, epochs: 3}"], ["steps and epochs exclude each other"]),
        (["runtime={cohort: 2, memory_gb: 1}"], ["runtime: memory_gb has no effect on a fixed cohort, 2"]),
        (["evaluation.every=9"], ["evaluation.every: 9", "federation.rounds, 3", "final adapter is evaluated"]),
        (["data.category=owner"], ["category", "no global_test"]),
        (["data={source: pocket-tasks, fields: {prompt: a, response: b}}"], ["fields has no effect on pocket-tasks"]),
        (["data.split={validation: 0.5, test: 0.5}"], ["validation + test = 1"]),
        (["data.split={key: owner, test: 0.2}"], ["data.split: key takes the split"]),
        (["data.fields={prompt: prompt}"], ["data.fields: needs prompt and response"]),
        (["data.global_test={}"], ["data.global_test: needs exactly one of where, fraction, source"]),
        (["data.global_test={where: {}}"], ["data.global_test.where: {} is not a section with an entry"]),
        (["data.global_test={fraction: 0}"], ["data.global_test.fraction: 0 is not a number above 0"]),
    ],
)
def test_options_without_effect_and_combinations(
    refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]
) -> None:
    contains(refused_early(recipe(rows), *(word for o in overrides for word in ("--set", o))), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: a\nseed: [1\n", ["recipe.yaml line 2: not valid YAML", "never closed"]),
        ("name: a\nseed: 1\nname: b\n", ["recipe.yaml line 3", "the key 'name' appears twice"]),
        ("name: a\n\tseed: 1\n", ["recipe.yaml line 2: not valid YAML"]),
        ("[a]: 1\n", ["recipe.yaml line 1: not valid YAML"]),
        ("name: 2020-13-45\n", ["recipe.yaml: not valid YAML"]),
        ("[" * 1200, ["recipe.yaml: not valid YAML"]),
        ("- name\n- seed\n", ["recipe: expected a mapping of keys, got list"]),
        ("1: 2\n", ["1: "]),
    ],
)
def test_recipe_files_that_are_no_recipe(refused_early: Refused, text: str, parts: list[str]) -> None:
    contains(refused_early(text), *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("nothere.yaml", ["no such file: nothere.yaml", "fedloom recipes"]), ("doly", ["'dolly'"]), (".", ["no such"])],
)
def test_missing_recipe(refused: Refused, name: str, parts: list[str]) -> None:
    contains(refused("run", name, "--out", "out"), *parts)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.source=rowz.jsonl", ["data.source: no such file: rowz.jsonl", "did you mean rows.jsonl?"]),
        ("data.source=pocket-task", ["no such file: pocket-task", "did you mean pocket-tasks?"]),
        ("data.source=recipe.yaml", ["data.source: recipe.yaml has the unknown suffix '.yaml'", ".jsonl"]),
        ("data.fields={prompt: prmpt, response: response}", ["data.fields.prompt: ", "rows.jsonl:1 has", "'prompt'"]),
        (
            "data.fields={prompt: prompt, response: response, context: ctx}",
            ["data.fields.context: no record has the field"],
        ),
        ("data.partition.key=ownr", ["data.partition.key: ", "rows.jsonl:1 has no field 'ownr'", "'owner'"]),
        ("data.split={key: owner}", ["data.split.key: ", "rows.jsonl:1", "'ada'", "train, validation, test"]),
        ("data.global_test={where: {owner: zoe}}", ["data.global_test.where: no record has owner: zoe"]),
        ("data.max_tokens=8", ["client 'ada' has no training examples", "no answer within max_tokens"]),
        ("federation.clients_per_round=9", ["federation.clients_per_round: 9 is above", "clients, 8"]),
        (
            "evaluation.max_clients=8",
            ["evaluation.max_clients: 8 has no effect", "8 training and 0 unseen", "leave it"],
        ),
        ("data.partition={kind: iid, clients: 4}", ["federation.clients_per_round: 8 is above", "clients, 4"]),
        ("data.partition={kind: dirichlet, key: owner, clients: 999}", ["999 clients", "2997 records", "are 196"]),
        ("data.split={test: 0}", ["evaluation.split: no client has test examples", "raise data.split.test"]),
        ("data.unseen_clients=8", ["data.unseen_clients: 8 of 8 clients leaves none to train"]),
        ("trackers=[wandb]", ["trackers: 'wandb' needs the package", 'pip install "fedloom[wandb]"']),
    ],
)
def test_recipe_that_does_not_fit_the_data(
    refused_early: Refused, rows: Path, monkeypatch: pytest.MonkeyPatch, override: str, parts: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    contains(refused_early(recipe(rows), "--set", override), *parts)


GOOD = '{"prompt": "a", "response": "b", "owner": "x"}\n'


@pytest.mark.parametrize(
    ("text", "partition", "parts"),
    [
        ("", None, ["data.source: bad.jsonl holds no records"]),
        (GOOD + "{\n", None, ["bad.jsonl:2: not valid JSON"]),
        (GOOD + "[1]\n", None, ["bad.jsonl:2: expected an object", "a list"]),
        ("[" * 99999, None, ["bad.jsonl:1: the JSON is nested too deeply"]),
        ('{"prompt": "a", "owner": "x"}\n', None, ["bad.jsonl:1 has no field 'response'", "prompt, owner"]),
        ("{}\n", None, ["data.fields.prompt: bad.jsonl:1 has no field 'prompt'; fields there: none"]),
        (GOOD.replace('"a"', '{"a": 1}'), None, ["bad.jsonl:1: the field 'prompt' holds a nested value"]),
        (GOOD.replace('"x"', "null"), None, ["data.partition.key: bad.jsonl:1 has no value in the field 'owner'"]),
        (GOOD.replace('"b"', '""'), None, ["client 'x' has no training examples (1 record: 1 dropped as empty"]),
        (
            GOOD.replace('"b"', '""'),
            {"kind": "iid", "clients": 1},
            ["data.source: none of its 1 records can be used", "empty response"],
        ),
        (GOOD, None, ["evaluation.split: no client has test examples", "raise data.split.test"]),
    ],
)
def test_data_files_that_are_broken(
    refused_early: Refused, tmp_path: Path, text: str, partition: dict[str, Any] | None, parts: list[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    values = recipe(Path("bad.jsonl"), federation={"clients_per_round": 1})
    if partition is not None:
        values["data"]["partition"] = partition
    contains(refused_early(values), *parts)


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(values))

    return change


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda f: (f / WEIGHTS).unlink(), ["has no weights (*.safetensors)"]),
        (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), ["has no weights", "pickled"]),
        (lambda f: (f / "config.json").unlink(), ["has no config.json"]),
        (lambda f: (f / "tokenizer.json").unlink() or (f / "tokenizer_config.json").unlink(), ["has no tokenizer"]),
        (rewrite("config.json", "{"), ["config.json is not valid JSON"]),
        (rewrite("config.json", "{}"), ["can't load config.json of", "model_type"]),
        (edit("config.json", model_type="zork"), ["can't load config.json of", "zork"]),
        (edit("config.json", hidden_size="x"), ["can't load config.json of", "hidden_size", "int"]),
        (rewrite("tokenizer.json", "{"), ["can't load the tokenizer of"]),
        (edit("tokenizer_config.json", chat_template=None), ["data.template: chat needs a tokenizer with"]),
    ],
)
def test_model_folders_that_lack_something(
    refused_early: Refused, rows: Path, tmp_path: Path, damage: Callable[[Path], None], parts: list[str]
) -> None:
    damage(shutil.copytree(POCKET, tmp_path / "model"))
    contains(refused_early(recipe(rows, model={"base": "model"})), *parts)


@pytest.mark.parametrize(
    ("base", "parts"),
    [
        ("./nope", ["no such folder: './nope'"]),
        ("models/lama", ["no such folder: 'models/lama'", "did you mean models/llama?"]),
        ("pockt", ["no such folder: 'pockt'", "did you mean pocket?"]),
        ("rows.jsonl", ["'rows.jsonl' is a file", "config.json"]),
    ],
)
def test_model_that_is_not_there(
    refused_early: Refused, rows: Path, tmp_path: Path, base: str, parts: list[str]
) -> None:
    (tmp_path / "models" / "llama").mkdir(parents=True)
    contains(refused_early(recipe(rows), "--set", f"model.base={base}"), "model.base: ", *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{% for %}", ["data.template: own.jinja:1: "]),
        ("{{ messages[0].zork.x }}", ["data.template: the template own.jinja refuses", "zork"]),
        ("{{ messages | length }}", ["data.template: the template own.jinja rewrites earlier text"]),
    ],
)
def test_template_of_ones_own(refused_early: Refused, rows: Path, tmp_path: Path, text: str, parts: list[str]) -> None:
    (tmp_path / "own.jinja").write_text(text)
    contains(refused_early(recipe(rows), "--set", "data.template=own.jinja"), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("data:\n\tsource: a\n", ["line 2: not valid YAML", "indent with spaces"]),
        ("data:\n  source: a\n   template: plain\n", ["line 3: not valid YAML", "followed by a space"]),
        ("data:\n  source: a\n template: plain\n", ["line 3: not valid YAML", "indented as its neighbours"]),
        ("name: 'mine\nseed: 0\nlocal: {}\n", ["line 1: not valid YAML", "opened here and never closed"]),
        ("data: {source: a, fields: {prompt: a\nseed: 0\n", ["line ", "not valid YAML", "hint: "]),
        ("data:\n  fields: {prompt: Frage: x, response: b}\n", ["line 2: not valid YAML", "needs quotes"]),
        ('data: {source: "C:\\Users\\bank"}\n', ["line 1: not valid YAML", "use single quotes, or /"]),
        ("name: @mine\n", ["line 1: not valid YAML", "needs quotes"]),
        ("name: a\n---\nname: b\n", ["not valid YAML", "one file holds one recipe"]),
    ],
)
def test_yaml_says_what_to_mend(refused_early: Refused, text: str, parts: list[str]) -> None:
    contains(refused_early(text), *parts)
