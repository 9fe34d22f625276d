"""A mistake with a run's files ends in exit code 2 and one clear line, and what was good is kept."""

import fcntl
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
from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains, rewrite

WEIGHTS = "model.safetensors"


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


def other_weights(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    last = max(tensors)
    safetensors.torch.save_file({**tensors, last: tensors[last] * 2}, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    "change", [other_weights, rewrite("config.json", (POCKET / "config.json").read_bytes() + b" ")]
)
def test_another_base_under_the_same_name(
    refused: Refused, rows: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(POCKET, tmp_path / "model")
    values = recipe(rows, model={"base": "model"}, **{**SMALL, "federation": {"rounds": 1, "clients_per_round": 2}})
    run(values, "out")
    run(values, "out", resume=True)
    change(tmp_path / "model")
    told = "model.base: 'model' is not the model that the run in out began with"
    contains(
        refused("run", "out/recipe.yaml", "--out", "out", "--resume"), told, "config.json have changed", "new folder"
    )
    contains(refused("evaluate", "out"), told)
    contains(refused("generate", "out", "hello"), told)


def test_resume_with_other_data(refused: Refused, rows: Path) -> None:
    values = recipe(rows, **{**SMALL, "federation": {"rounds": 1, "clients_per_round": 2}})
    run(values, "out")
    rows.write_text(rows.read_text().replace("river", "brook"))
    told = refused("run", "out/recipe.yaml", "--out", "out", "--resume")
    contains(told, "data: not what the run in out began with: a source, the template or the tokenizer", "new folder")


def test_ctrl_c_says_how_to_go_on(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedloom.federation.run_arm", interrupted)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(rows, **SMALL)))
    monkeypatch.setattr(sys, "argv", ["fedloom", "run", "recipe.yaml", "--out", "out"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "stopped; go on with --resume\n"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(recipe(rows, **SMALL), "out", resume=True).metrics["rounds"] == 3


def test_a_run_looked_at_from_another_folder(
    refused: Refused, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe(Path("rows.jsonl"), **{**SMALL, "federation": {"rounds": 1, "clients_per_round": 2}}), "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    contains(refused("evaluate", "../out"), "data.source: no such file: rows.jsonl", "in the current folder, ")


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
def test_damaged_adapter(refused: Refused, finished: Path, command: list[str], damage: Callable[[Path], None]) -> None:
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
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
        (["run", "recipe.yaml", "--out", "out"], ["'someone/something'", "no folder here", "from the hub"]),
        (["report", "out"], ["out: no such run directory"]),
    ],
    ids=["run", "report"],
)
def test_as_a_process(rows: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(rows, model={"base": "someone/something"})))
    # Offline, the hub client gives up at once instead of trying again for half a minute.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "fedloom", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= 2
    contains(done.stderr, "error: ", *parts)
    assert not (tmp_path / "out").exists()
