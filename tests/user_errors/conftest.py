"""Commands that must be refused, and what they are given."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

import fedloom.session
from fedloom.cli import main
from fedloom.runs import run
from tests.federated_runs import recipe, write_examples
from tests.user_errors import SMALL, Refused


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


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    values = recipe(write_examples(folder / "rows.jsonl"), **SMALL)
    run({**values, "baselines": ["local"]}, folder / "run")
    return folder / "run"


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "finished")
