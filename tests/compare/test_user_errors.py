"""A mistake in a comparison is one clear line, before anything runs, and leaves nothing."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

import fedloom
import fedloom.session
from fedloom.cli import main
from fedloom.errors import UserError
from tests.compare import small_recipe

ALGORITHM = "federation.algorithm"


@pytest.fixture
def refused(monkeypatch, capsys, recipe_file, tmp_path):
    def call(*options: str, out: Path | None = None, nothing_left: bool = True) -> str:
        monkeypatch.setattr(fedloom.session, "load_base", lambda *_: pytest.fail("read the weights"))
        folder = out or tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["fedloom", "compare", str(recipe_file), "--out", str(folder), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr().err
        assert ended.value.code == 2, told
        assert told.startswith("error: ")
        assert told.count("\n") <= 2
        if nothing_left:
            assert out is not None or not folder.exists()
        return told

    return call


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--vary", "local.learning_rat=1,2"], ["local.learning_rat: unknown key", "did you mean 'learning_rate'?"]),
        (["--vary", f"{ALGORITHM}.name=fedavg,scafold"], ["'scafold' is not one of", "did you mean 'scaffold'?"]),
        (["--vary", "local.steps=2,-1"], ["steps=-1: local.steps: -1 is not"]),
        (["--vary", "local.steps"], ["--vary 'local.steps': expected KEY=VALUE,VALUE"]),
        (["--vary", "local.steps=2,"], ["--vary local.steps: a value is missing in '2,'"]),
        (["--vary", "local.steps=[2"], ["--vary local.steps", "not valid YAML"]),
        (["--vary", "local.steps=1,2", "--vary", "local.steps=3"], ["--vary local.steps: is given twice"]),
        (["--vary", "local.steps=1,1"], ["--vary local.steps: the same value is given twice"]),
        (["--vary", "seed=1,2"], ["--vary seed: can't be varied", "--seeds"]),
        (["--vary", "name=a,b"], ["--vary name: can't be varied"]),
        (["--vary", f"{ALGORITHM}=fedavg,{{name: fedavg}}"], ["'fedavg' and 'fedavg' are the same run"]),
        (["--vary", f"{ALGORITHM}.name=fedavg,fedbuff"], ["fedbuff: ", "clock"]),
        (["--vary", "model.adapter.targets=[q_proj],[q_porj]"], ["targets=[q_porj]: ", "q_proj"]),
        (["--vary", "federation.clients_per_round=2,9"], ["clients_per_round=9: ", "9"]),
        (["--seeds", "0"], ["--seeds: 0 is not a positive number"]),
        (["--processes", "0"], ["--processes: 0 is not a positive number"]),
        (["--set", "runtime.kind=distributed"], ["runtime.kind: a comparison shares whole runs", "--processes N"]),
        (["--vary", "runtime={kind: distributed},{}"], ["runtime.kind: a comparison shares whole runs"]),
        (
            ["--vary", "evaluation.cross=false,true", "--set", "baselines=[local]"],
            ["cross=true: evaluation.cross: has no place in a comparison"],
        ),
        (
            ["--tune", "local.steps=1,2", "--vary", "evaluation.split=test,validation"],
            ["split=validation: --tune: chooses on the validation"],
        ),
        (["--set", "model.adapter.kind=ia3"], ["model.adapter.rank: unknown key", "--set model.adapter=ia3 takes"]),
        (["--vary", "local.steps=1,2", "--reference", "steps=3"], ["--reference: 'steps=3' is no variant", "steps=1"]),
        (["--tune", "local.steps"], ["--tune local.steps: 1 is not a positive number", "give the values"]),
        (["--tune", "local.steps=2"], ["--tune local.steps: nothing to choose between"]),
        (["--tune", "federation.rounds=2,3"], ["--tune federation.rounds: is the budget"]),
        (["--tune", "local.steps=1,2", "--vary", "local.steps=3,4"], ["--tune local.steps: is varied as well"]),
        (["--tune", "local.steps=1,2", "--set", "evaluation.split=validation"], ["--tune: chooses on the validation"]),
        (
            ["--tune", "local.steps=1,2", "--set", "data.split={validation: 0, test: 0.2}"],
            ["--tune, on the validation split: ", "no client has validation examples"],
        ),
    ],
)
def test_refused_before_anything_runs(refused, options, parts):
    told = refused(*options)
    for part in parts:
        assert part in told


def test_a_folder_that_is_in_use_for_something_else(refused, tmp_path, undisturbed):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    assert "is not empty and holds no comparison" in refused(out=tmp_path / "mine")
    assert "is not empty and holds no comparison" in refused("--resume", out=tmp_path / "mine")
    assert "already holds a comparison" in refused(out=undisturbed, nothing_left=False)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--seeds", "3"], ["tune.local.learning_rate"]),
        (["--seeds", "2", "--tune", "local.learning_rate=1e-4,3e-3,3e-2"], ["vary.federation.algorithm"]),
        (
            [
                "--seeds",
                "3",
                "--tune",
                "local.learning_rate=1e-4,3e-3,3e-2",
                "--vary",
                f"{ALGORITHM}=fedavg,{{name: fedprox, mu: 0.1}}",
            ],
            ["seeds: 2, this command says 3"],
        ),
        (
            [
                *("--seeds", "2", "--tune", "local.learning_rate=1e-4,3e-3,3e-2", "--set", "federation.rounds=4"),
                *("--vary", f"{ALGORITHM}=fedavg,{{name: fedprox, mu: 0.1}}"),
            ],
            ["federation.rounds: 3, this command says 4"],
        ),
    ],
)
def test_resuming_with_other_arguments_says_what_differs(refused, undisturbed, options, parts):
    told = refused("--resume", *options, out=undisturbed, nothing_left=False)
    assert "holds a comparison with" in told
    for part in parts:
        assert part in told or "vary." in told


def test_new_runs_do_not_begin_with_other_data(tmp_path):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(yaml.safe_dump(small_recipe(tmp_path)))
    options = {"vary": {"federation.rounds": [2]}, "seeds": 1, "baselines": False}
    found = fedloom.compare(recipe_file, tmp_path / "out", **options)
    shutil.rmtree(found.out / "cells")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="--resume: data: a source, the template or the tokenizer changed since"):
        fedloom.compare(recipe_file, found.out, **options, resume=True)
    assert not (found.out / "cells").exists()
