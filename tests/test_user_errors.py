"""A user's mistake ends in exit code 2 and one clear line, before any weight is read and with nothing left behind."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

import fedloom.session
from fedloom.cli import main
from fedloom.model.base import POCKET
from fedloom.report.events import read_events
from fedloom.runs import run
from tests.federated_runs import recipe, write_examples

WEIGHTS = "model.safetensors"
SMALL: dict[str, Any] = {
    "federation": {"rounds": 3, "clients_per_round": 2},
    "local": {"epochs": None, "steps": 1, "batch_size": 2},
    "evaluation": {"max_examples": 2},
}
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "rows.jsonl")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; returns what it wrote to stderr."""

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fedloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        told = capsys.readouterr().err
        assert exit_.value.code == 2, told
        lines = told.splitlines()
        assert lines[0].startswith("error: ")
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), told
        return told

    return call


@pytest.fixture
def refused_early(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Refused:
    """Run a recipe that must be refused before weights are read, and without leaving anything."""

    def call(values: object, *options: object) -> str:
        monkeypatch.setattr(fedloom.session, "load_base", lambda *_: pytest.fail("read the weights"))
        path = tmp_path / "recipe.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        told = refused("run", path, "--out", tmp_path / "out", *options)
        assert not (tmp_path / "out").exists()
        return told

    return call


def contains(told: str, *parts: str) -> None:
    for part in parts:
        assert part in told, told


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    values = recipe(write_examples(folder / "rows.jsonl"), **SMALL)
    run({**values, "baselines": ["local"]}, folder / "run")
    return folder / "run"


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "finished")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sede=1", ["sede: unknown key", "name, seed, model", "'seed'"]),
        ("files=1", ["files: unknown key"]),
        ("model.bse=x", ["model.bse: unknown key", "base, dtype, adapter", "'base'"]),
        ("data.partition={kind: iid, clientz: 3}", ["data.partition.clientz", "kind, clients", "'clients'"]),
        ("federation.algorithm.mu=1", ["federation.algorithm.mu: unknown key", "name, weighting"]),
        ("federation.algorithm.name=fedavgg", ["federation.algorithm.name: 'fedavgg'", "did you mean 'fedavg'"]),
        ("federation.algorithm=fedavg", ["federation.algorithm: 'fedavg'", "name, weighting"]),
        ("data.partition.kind=bykey", ["data.partition.kind: 'bykey'", "dirichlet", "'by_key'"]),
        ("data.partition={}", ["data.partition: needs the key 'kind'"]),
        ("local.optimizer=adam", ["local.optimizer: 'adam'", "adamw, sgd", "'adamw'"]),
        ("local.schedule=cosin", ["local.schedule: 'cosin'", "constant, linear, cosine", "'cosine'"]),
        ("data.template=alpacca", ["data.template: 'alpacca'", "chat, plain", "'alpaca'"]),
        ("data.template=no.jinja", ["data.template: no such file: no.jinja"]),
        ("model.dtype=float16", ["model.dtype: 'float16'", "auto, float32, bfloat16"]),
        ("model.adapter.kind=lorra", ["model.adapter.kind: 'lorra'", "'lora'"]),
        ("task.kind=dpo", ["task.kind: 'dpo'", "sft"]),
        ("evaluation.split=tst", ["evaluation.split: 'tst'", "test, validation", "'test'"]),
        ("baselines=[locall]", ["baselines.0.kind: 'locall'", "local, centralized", "'local'"]),
        ("baselines=local", ["baselines: 'local' is not a list"]),
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
        ("evaluation.exact_match=atuo", ["'atuo' is not true or false or 'auto'", "mean 'auto'"]),
        ("data.source=3", ["data.source: 3 is not text or a list"]),
        ("data.source=[]", ["data.source: the list is empty"]),
    ],
)
def test_unknown_keys_and_misspelt_values(
    refused_early: Refused, rows: Path, override: str, parts: list[str]
) -> None:
    contains(refused_early(recipe(rows), "--set", override), *parts)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("novalue", ["--set 'novalue'", "KEY=VALUE"]),
        ("=3", ["--set '=3'", "KEY=VALUE"]),
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
        (["evaluation.split=validation", "data.split.validation=0"], ["evaluation.split: validation", "is 0"]),
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
        ("name: a\nseed: [1\n", ["recipe.yaml line 3: not valid YAML"]),
        ("name: a\nseed: 1\nname: b\n", ["recipe.yaml line 3", "the key 'name' appears twice"]),
        ("name: a\n\tseed: 1\n", ["recipe.yaml line 2: not valid YAML"]),
        ("[a]: 1\n", ["recipe.yaml line 1: not valid YAML"]),
        ("name: 2020-13-45\n", ["recipe.yaml: not valid YAML"]),
        ("[" * 5000, ["recipe.yaml: not valid YAML"]),
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
        ("data.fields.prompt=prmpt", ["data.fields.prompt: ", "rows.jsonl:1 ", "prompt, response, owner", "'prompt'"]),
        ("data.fields.context=ctx", ["data.fields.context: no record has the field 'ctx'"]),
        ("data.partition.key=ownr", ["data.partition.key: ", "rows.jsonl:1 has no field 'ownr'", "'owner'"]),
        ("data.split={key: owner}", ["data.split.key: ", "rows.jsonl:1", "'ada'", "train, validation, test"]),
        ("data.global_test={where: {owner: zoe}}", ["data.global_test.where: no record has owner: zoe"]),
        ("data.max_tokens=8", ["client 'ada' has no training examples", "no answer within max_tokens"]),
        ("federation.clients_per_round=9", ["federation.clients_per_round: 9 is above", "clients, 8"]),
        ("data.partition={kind: iid, clients: 4}", ["federation.clients_per_round: 8 is above", "clients, 4"]),
        ("data.partition={kind: dirichlet, key: owner, clients: 999}", ["999 clients", "2997 records", "are 196"]),
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


def rewrite(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


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


def not_numbers(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    safetensors.torch.save_file({k: v * float("nan") for k, v in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (rewrite(WEIGHTS, b""), ["can't load the weights of 'model'"]),
        (rewrite(WEIGHTS, (POCKET / WEIGHTS).read_bytes()[:9999]), ["can't load the weights of 'model'"]),
        (rewrite(WEIGHTS, safetensors.torch.save({"a": torch.zeros(1)}, {"format": "pt"})), ["'model' lack", "of the"]),
        (not_numbers, ["model.base: the untuned model's loss is not a finite number"]),
    ],
)
def test_damaged_weights(
    refused: Refused, rows: Path, tmp_path: Path, damage: Callable[[Path], None], parts: list[str]
) -> None:
    damage(shutil.copytree(POCKET, tmp_path / "model"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(rows, model={"base": "model"}, **SMALL)))
    contains(refused("run", "recipe.yaml", "--out", "out"), *parts)
    assert not (tmp_path / "out").exists()


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
def test_template_of_ones_own(
    refused_early: Refused, rows: Path, tmp_path: Path, text: str, parts: list[str]
) -> None:
    (tmp_path / "own.jinja").write_text(text)
    contains(refused_early(recipe(rows), "--set", "data.template=own.jinja"), *parts)


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("rows.jsonl", ["--out: rows.jsonl is a file, not a folder"]),
        ("rows.jsonl/run", ["--out: can't write to rows.jsonl/run"]),
        ("/proc/run", ["--out: can't write to /proc/run"]),
        ("full", ["--out: full is not empty and holds no run", "new folder"]),
        ("finished", ["--out: finished already holds a run", "--resume"]),
    ],
)
def test_run_directory_that_cannot_be(
    refused: Refused, rows: Path, tmp_path: Path, finished: Path, out: str, parts: list[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(rows)))
    contains(refused("run", "recipe.yaml", "--out", out), *parts)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note.txt"]


def test_a_corrected_recipe_can_have_the_folder(refused: Refused, rows: Path, tmp_path: Path) -> None:
    values = recipe(rows, **SMALL)
    (tmp_path / "out").mkdir()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    refused("run", "recipe.yaml", "--out", "out", "--set", "data.template=alpacca")
    assert list((tmp_path / "out").iterdir()) == []
    assert run(values, tmp_path / "out", ["federation.rounds=1"]).adapter.is_dir()


def test_another_process_in_the_folder(refused: Refused, rows: Path, finished: Path) -> None:
    with open(finished / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = refused("run", finished / "recipe.yaml", "--out", finished, "--resume")
    contains(told, "--out: another process is running in")


def test_resume_with_another_recipe(refused: Refused, finished: Path) -> None:
    told = refused("run", finished / "recipe.yaml", "--out", finished, "--resume", "--set", "local.steps=2")
    contains(told, "--resume: ", "local.steps: 1", "says 2", "new folder")


def test_resume_of_nothing_begins(rows: Path, tmp_path: Path) -> None:
    result = run(recipe(rows, **SMALL), tmp_path / "out", ["federation.rounds=1"], resume=True)
    assert result.metrics["rounds"] == 1


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["evaluate", "nothere"], ["nothere: not a run directory"]),
        (["generate", "nothere", "hello"], ["nothere: not a run directory"]),
        (["report", "nothere"], ["nothere: no such run directory"]),
        (["report", "."], [". is no run directory"]),
        (["evaluate", "unfinished"], ["unfinished: has no adapter yet", "--resume"]),
        (["generate", "unfinished", "hello"], ["unfinished: has no adapter yet", "--resume"]),
        (["evaluate", "finished", "--split", "tst"], ["--split: 'tst'", "test, validation", "'test'"]),
        (["generate", "finished", " "], ["PROMPT: is empty"]),
        (["generate", "finished", "hello", "--max-new-tokens", "0"], ["--max-new-tokens: 0"]),
        (["run", "doesnotmatter", "--out", "out", "--seeds", "0"], ["no such file"]),
        (["run", "finished/recipe.yaml", "--out", "out", "--seeds", "0"], ["--seeds: 0"]),
    ],
)
def test_commands_on_runs(refused: Refused, finished: Path, command: list[str], parts: list[str]) -> None:
    shutil.copytree(finished, "unfinished")
    shutil.rmtree("unfinished/adapter")
    contains(refused(*command), *parts)


@pytest.mark.parametrize("command", [["evaluate"], ["generate", "hello"]])
@pytest.mark.parametrize(
    "damage",
    [
        rewrite("adapter_model.safetensors", b"x" * 99),
        rewrite("adapter_model.safetensors", safetensors.torch.save({"a": torch.zeros(1)}, {"format": "pt"})),
    ],
    ids=["bytes", "tensors"],
)
def test_damaged_adapter(
    refused: Refused, finished: Path, command: list[str], damage: Callable[[Path], None]
) -> None:
    damage(finished / "adapter")
    contains(refused(command[0], finished, *command[1:]), f"{finished / 'adapter'}: ")


@pytest.mark.parametrize("name", ["metrics.json", "events.jsonl"])
def test_report_of_damaged_files(refused: Refused, finished: Path, name: str) -> None:
    (finished / name).write_text("{\n")
    contains(refused("report", finished), name, "not JSON")


def damage_checkpoint(folder: Path, name: str) -> None:
    file = folder / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content if name.endswith(".safetensors") else content[:40])


def without_times(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if "time" not in k and "seconds" not in k} for e in read_events(folder)]


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_damaged_checkpoint_falls_back_to_the_one_before(finished: Path, finished_run: Path, name: str) -> None:
    newest = max((finished / "checkpoints").iterdir())
    damage_checkpoint(newest, name)
    with pytest.warns(UserWarning, match=f"{newest.name}: damaged checkpoint"):
        run(finished / "recipe.yaml", finished, resume=True)
    assert without_times(finished / "events.jsonl") == without_times(finished_run / "events.jsonl")
    for file in finished_run.glob("clients/*/*/*.safetensors"):
        assert (finished / file.relative_to(finished_run)).read_bytes() == file.read_bytes()


@pytest.mark.filterwarnings("ignore:.*damaged checkpoint")
def test_no_checkpoint_can_be_read(refused: Refused, finished: Path, recwarn: pytest.WarningsRecorder) -> None:
    for checkpoint in (finished / "checkpoints").iterdir():
        damage_checkpoint(checkpoint, "state.json")
    contains(refused("run", finished / "recipe.yaml", "--out", finished, "--resume"), "no checkpoint can be read")


def test_diverged_training_names_client_and_round(refused: Refused, rows: Path, tmp_path: Path) -> None:
    local = {"steps": 3, "optimizer": "sgd", "learning_rate": 1e38, "max_gradient_norm": None}
    values = recipe(rows, **{**SMALL, "local": {**SMALL["local"], **local}})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    first = refused("run", "recipe.yaml", "--out", "out")
    contains(first, "round 1: the loss of client '", "not a finite number", "lower local.learning_rate")
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["0-000000"]
    assert refused("run", "recipe.yaml", "--out", "out", "--resume") == first


def test_test_loss_that_is_not_finite(
    refused: Refused, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights that train to a finite loss and then test to none are rare: the result is put in from outside.
    shared = fedloom.session.Evaluator.shared

    def spoilt(self: Any, adapter: Any) -> dict[str, Any]:
        result = shared(self, adapter)
        return result if all(not v.any() for k, v in adapter.items() if "lora_B" in k) else {**result, "loss": 1e999}

    monkeypatch.setattr(fedloom.session.Evaluator, "shared", spoilt)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(rows, **SMALL)))
    told = refused("run", "recipe.yaml", "--out", "out", "--set", "federation.rounds=1")
    contains(told, "round 1: the federated adapter's test loss is not a finite number")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system can't be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("options", "baselines", "parts"),
    [
        ("ro", [], ["--out: can't write to", "Read-only file system"]),
        ("size=64k", [], ["--out: can't write to", "No space left on device"]),
        ("size=1100k", ["local"], ["No space left on device", "--resume"]),
    ],
    ids=["read-only", "full", "full-later"],
)
def test_disks(
    refused: Refused, rows: Path, tmp_path: Path, disk: Any, options: str, baselines: list[str], parts: list[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe(rows, **SMALL), "baselines": baselines}))
    contains(refused("run", "recipe.yaml", "--out", disk(options) / "run"), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "model.base=someone/something"], ["someone/something", "no folder here", "hub"]),
        (["--set", "federation.rounds=-1"], ["federation.rounds: -1"]),
    ],
    ids=["hub", "value"],
)
def test_as_a_process(rows: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(rows)))
    command = [sys.executable, "-m", "fedloom", "run", "recipe.yaml", "--out", "out", *arguments]
    # Offline, the hub client gives up at once instead of trying again for half a minute.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 2
    contains(done.stderr, "error: ", *parts)
    assert not (tmp_path / "out").exists()
