"""`fedloom evaluate DIR --suite`, as people type it: results, what is kept, what is refused."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import fedloom.suites.command
from fedloom.cli import main
from fedloom.suites.outcomes import OutcomeFile
from tests.processes import Command, carry_out
from tests.suites.pocket_runs import pocket_run
from tests.suites.test_known_answers_choice import SIZES
from tests.user_errors import contains
from tests.user_errors.conftest import refused

__all__ = ["refused"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_run(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished_run, tmp_path / "run")


def entries(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["tasks"]
    return found


def outcomes(run: Path, task: str, subject: str = "adapter") -> list[dict[str, Any]]:
    lines = (run / "evaluations" / task / f"{subject}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def test_every_choice_task_from_end_to_end(
    finished: Path, shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"fedloom evaluate run --suite {','.join(SIZES)} --data {shared / 'data'} --limit 2 --baseline base"
    carry_out(command)
    printed = capsys.readouterr().out
    found = entries(finished)
    assert list(found) == list(SIZES)
    for name, size in SIZES.items():
        entry = found[name]
        assert name in printed
        assert (entry["examples"], entry["limit"], entry["command"]) == (size, 2, command)
        for subject in ("adapter", "base"):
            rows = outcomes(finished, name, subject)
            assert entry[subject]["n"] == len(rows) == 2
            scores = [row["measures"][entry["measure"]] for row in rows]
            assert entry[subject]["score"] == sum(scores) / 2
            assert entry[subject]["standard_error"] == pytest.approx(abs(scores[0] - scores[1]) / 2)
        difference = entry["adapter"]["score"] - entry["base"]["score"]
        assert entry["difference"]["score"] == pytest.approx(difference)
    assert outcomes(finished, "piqa") != outcomes(finished, "piqa", "base")
    # Five shots do not fit into 512 tokens; of a limit of two, items are of two subjects.
    assert found["mmlu"]["adapter"]["flags"] == {"truncated": 2}
    assert len(found["mmlu"]["adapter"]["categories"]) == 2

    # Again: everything is there, so no model is loaded.
    before = {path: path.read_bytes() for path in finished.rglob("evaluations/*/*.jsonl")}
    monkeypatch.setattr(fedloom.suites.command, "open_bench", lambda _: pytest.fail("loaded the model"))
    carry_out(command)
    assert {path: path.read_bytes() for path in finished.rglob("evaluations/*/*.jsonl")} == before
    assert entries(finished) == found


def test_a_higher_limit_asks_what_is_left(finished: Path, shared: Path) -> None:
    command = f"fedloom evaluate run --suite openbookqa --data {shared / 'data'}"
    carry_out(f"{command} --limit 3")
    few = outcomes(finished, "openbookqa")
    carry_out(f"{command} --limit 8")
    assert outcomes(finished, "openbookqa")[:3] == few
    shutil.rmtree(finished / "evaluations")
    at_once = entries(finished)
    carry_out(f"{command} --limit 8")
    assert entries(finished) == at_once
    assert len(outcomes(finished, "openbookqa")) == 8


def die_after_seventy() -> None:
    """The process dies when seventy outcomes are written down, in the middle of a line."""
    real, written = OutcomeFile.append, 0

    def append(self: OutcomeFile, outcome: Any) -> None:
        nonlocal written
        real(self, outcome)
        written += 1
        if written == 70:
            with self.path.open("ab") as file:
                file.write(b'{"key": "cut o')
            os.kill(os.getpid(), signal.SIGKILL)

    OutcomeFile.append = append  # type: ignore[method-assign]


@pytest.mark.long
def test_a_killed_evaluation_goes_on(finished: Path, shared: Path) -> None:
    arguments = ("evaluate", finished, "--suite", "openbookqa", "--data", shared / "data", "--limit", 100)
    assert Command(*arguments, before=die_after_seventy).ended_by_a_kill()
    carry_out("fedloom " + " ".join(map(str, arguments)))
    resumed, result = outcomes(finished, "openbookqa"), entries(finished)["openbookqa"]["adapter"]
    shutil.rmtree(finished / "evaluations")
    carry_out("fedloom " + " ".join(map(str, arguments)))
    # To the last bit, though the second half was asked in other company.
    assert resumed == outcomes(finished, "openbookqa")
    assert result == entries(finished)["openbookqa"]["adapter"]


def test_outcomes_of_another_model_are_refused(finished: Path, shared: Path, refused: Any, monkeypatch: Any) -> None:
    command = ("evaluate", "run", "--suite", "siqa", "--data", shared / "data", "--limit", 1)
    carry_out("fedloom " + " ".join(map(str, command)))
    config = finished / "adapter" / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    monkeypatch.setattr(fedloom.suites.command, "open_bench", lambda _: pytest.fail("loaded the model"))
    contains(refused(*command), "siqa/adapter.jsonl: holds outcomes of another model", "move the file away")


def test_tasks_of_a_suite_without_files_are_left_out(
    finished: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Any
) -> None:
    few = tmp_path / "few" / "below"
    few.mkdir(parents=True)
    for name in ("eval/piqa_test.jsonl.gz", "eval/siqa_test.jsonl.gz"):
        shutil.copy(shared / "data" / name, few)
    carry_out("fedloom evaluate run --suite general --data few --limit 1")
    told = capsys.readouterr().out
    contains(told, "left out: --data: task mmlu needs mmlu_test_sample.jsonl.gz, and few holds no", "left out")
    assert list(entries(finished)) == ["piqa", "siqa"]
    shutil.copy(few / "piqa_test.jsonl.gz", tmp_path / "few")
    told = refused("evaluate", "run", "--suite", "piqa", "--data", "few")
    contains(told, "piqa_test.jsonl.gz is there twice: few/below/piqa_test.jsonl.gz and few/piqa_test.jsonl.gz")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--suite", "arc_esy", "--data", "."],
            ["--suite: 'arc_esy' is not one of: general", "did you mean 'arc_easy'"],
        ),
        (["--suite", ",", "--data", "."], ["--suite: is empty", "fedloom evaluate --list"]),
        (["--suite", "arc_easy"], ["--data: missing", "--hub"]),
        (["--suite", "arc_easy", "--data", "nowhere"], ["--data: no such folder: nowhere"]),
        (["--suite", "arc_easy", "--data", "."], ["task arc_easy needs arc_easy.jsonl.gz, and . holds no", "--hub"]),
        (["--suite", "crass", "--data", "."], ["task crass needs CRASS_FTM", "the authors'"]),
        (["--suite", "arc_easy", "--data", ".", "--limit", "0"], ["--limit: 0 is not a positive number"]),
        (["--suite", "arc_easy", "--data", ".", "--baseline", "bse"], ["--baseline: 'bse'", "did you mean 'base'?"]),
        (["--suite", "arc_easy", "--data", ".", "--split", "test"], ["--split has no effect with --suite"]),
        (["--suite", "arc_easy", "--data", ".", "--lm-eval-tasks", "."], ["--lm-eval-tasks has no effect without"]),
        (["--data", "."], ["--data has no effect without --suite"]),
        (["--hub"], ["--hub has no effect without --suite"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_mistakes_are_told_before_a_model_is_loaded(
    arguments: list[str], parts: list[str], finished: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedloom.suites.command, "open_bench", lambda _: pytest.fail("loaded the model"))
    contains(refused("evaluate", "run", *arguments), *parts)


def test_a_file_of_something_else_is_told(finished: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "siqa_test.jsonl").write_text('{"id": 1, "instruction": "Do it.", "split": "test"}\n')
    told = refused("evaluate", "run", "--suite", "siqa", "--data", ".")
    contains(told, "--data: siqa_test.jsonl.gz is not what task siqa reads", "not an instruction of this form")


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fedloom", "evaluate", "--list"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in [*SIZES, "crass"])
    assert "lm_eval:TASK" in printed
