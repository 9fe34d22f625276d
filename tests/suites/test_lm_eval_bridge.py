"""`--suite lm_eval:TASK`: the harness on a run's adapter, with a task of one's own on a local file."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import carry_out
from tests.suites.pocket_runs import pocket_run
from tests.user_errors import contains
from tests.user_errors.conftest import refused

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
__all__ = ["refused"]
TASK = """\
task: birds
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_run(tmp_path_factory.mktemp("bridge"))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = [{"question": f"Does bird {n} sing?", "choices": ["yes", "no"], "gold": n % 2} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "birds.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl", cache=tmp_path / "cache"))
    return folder


@pytest.mark.long
def test_a_task_of_ones_own(finished: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(f"fedloom evaluate {finished} --suite lm_eval:birds --lm-eval-tasks {tasks} --limit 4 --baseline base")
    assert "lm_eval:birds" in capsys.readouterr().out
    entry: dict[str, Any] = json.loads((finished / "evaluation.json").read_text())["tasks"]["lm_eval:birds"]
    assert entry["measure"] == "acc,none"
    for subject in ("adapter", "base"):
        result = entry[subject]
        assert result["n"] == 4
        assert result["score"] == result["measures"]["acc,none"] in {0.0, 0.25, 0.5, 0.75, 1.0}
    assert entry["difference"]["score"] == entry["adapter"]["score"] - entry["base"]["score"]
    assert entry["limit"] == 4


@pytest.mark.slow
def test_tasks_that_there_are_not_are_told(finished: Path, tasks: Path, refused: Any) -> None:
    told = refused("evaluate", finished, "--suite", "lm_eval:bids", "--lm-eval-tasks", tasks)
    contains(told, "--suite: lm-evaluation-harness has no task 'bids'", "did you mean 'birds'?")
    told = refused("evaluate", finished, "--suite", "lm_eval:birds", "--lm-eval-tasks", "nowhere")
    contains(told, "--lm-eval-tasks: no such folder: nowhere")


def test_without_the_harness_it_says_how_to_get_it(
    finished: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    told = refused("evaluate", finished, "--suite", "lm_eval:arc_easy")
    contains(told, "needs the package 'lm_eval', which is not installed", "pip install 'fedloom[lm-eval]'")
