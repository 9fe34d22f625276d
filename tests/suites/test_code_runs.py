"""Code tasks by the command line, on a finished run of the embedded model and the real files."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloom.cli import app
from fedloom.suites.sandbox.level import obstacle
from tests.suites.pocket_runs import pocket_run

LEVEL = next((level for level in ("isolated", "weak") if obstacle(level) is None), None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_run(tmp_path_factory.mktemp("run"))


def evaluate(directory: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", str(directory), *options])
    return result.output if result.exception is None else str(result.exception)


@pytest.mark.skipif(LEVEL is None, reason="this machine has no sandbox for programs")
def test_code_tasks_are_evaluated(finished: Path, shared: Path) -> None:
    names = ("humaneval", "humaneval_chat", "mbpp_sanitized")
    options = ("--data", str(shared / "data"), "--limit", "1", "--sandbox", str(LEVEL))
    output = evaluate(finished, "--suite", ",".join(names), *options)
    assert all(name in output for name in names)
    entries = json.loads((finished / "evaluation.json").read_text())["tasks"]
    for name in names:
        assert entries[name]["settings"]["sandbox"] == LEVEL
        # The embedded model knows no Python.
        assert (entries[name]["adapter"]["score"], entries[name]["adapter"]["n"]) == (0.0, 1)
        lines = (finished / "evaluations" / name / "adapter.jsonl").read_text().splitlines()
        assert len(lines) == 2
        assert len(json.loads(lines[1])["output"]["reasons"]) == 1
    kept = (finished / "evaluations" / "humaneval" / "adapter.jsonl").read_bytes()
    evaluate(finished, "--suite", "humaneval", *options)
    assert (finished / "evaluations" / "humaneval" / "adapter.jsonl").read_bytes() == kept


def test_mistakes_are_told_before_a_model_is_loaded(finished: Path, shared: Path) -> None:
    data = ("--data", str(shared / "data"))
    assert "--sandbox: 'strong' is not one of: isolated, weak" in evaluate(
        finished, "--suite", "humaneval", *data, "--sandbox", "strong"
    )
    assert "--sandbox has no effect: none of the tasks has programs to run" in evaluate(
        finished, "--suite", "arc_easy", *data, "--sandbox", "weak"
    )
    assert "--sandbox has no effect without --suite" in evaluate(finished, "--sandbox", "weak")
