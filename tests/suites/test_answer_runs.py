"""Tasks that are answered with text, from end to end: the command, what it keeps, what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import fedloom.suites.kinds.answer
from fedloom.report.events import read_events
from fedloom.suites.catalogue import all_tasks
from tests.processes import carry_out
from tests.suites.pocket_runs import pocket_run
from tests.suites.test_known_answers_answer import GIVEN, TASKS
from tests.user_errors import contains
from tests.user_errors.conftest import refused

__all__ = ["refused"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_run(tmp_path_factory.mktemp("answered"))


@pytest.fixture
def finished(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished_run, tmp_path / "run")


def shorten(name: str, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(all_tasks(), name, all_tasks()[name].model_copy(update={"max_new_tokens": longest}))


def test_every_answer_task_from_end_to_end(finished, shared, tmp_path, monkeypatch):
    # Short answers: it is the way that is tested, and the pocket model knows nothing of all this.
    for name in TASKS:
        shorten(name, 6, monkeypatch)
    here = [name for name in TASKS if name not in GIVEN]
    carry_out(f"fedloom evaluate run --suite {','.join(here)} --data {shared / 'data'} --limit 2 --baseline base")
    found = json.loads((finished / "evaluation.json").read_text())["tasks"]
    assert list(found) == here
    answers = {"adapter": [], "base": []}
    for name in here:
        for subject, texts in answers.items():
            lines = (finished / "evaluations" / name / f"{subject}.jsonl").read_text().splitlines()[1:]
            rows = [json.loads(line) for line in lines]
            assert len(rows) == found[name][subject]["n"] == 2
            assert set(found[name][subject]["measures"]) == set(all_tasks()[name].measures)
            assert sum("unparsable" in row["flags"] for row in rows) == found[name][subject].get("flags", {}).get(
                "unparsable", 0
            )
            texts += [row["output"]["text"] for row in rows]
    assert answers["adapter"] != answers["base"]
    # The 1,000 tokens of its solved examples do not fit into 512.
    assert found["bbh"]["adapter"]["flags"]["truncated"] == 2


def test_answers_do_not_depend_on_what_was_asked_before(finished, shared, monkeypatch):
    shorten("gsm8k_chat", 12, monkeypatch)
    command = f"fedloom evaluate run --suite gsm8k_chat --data {shared / 'data'}"
    file = finished / "evaluations" / "gsm8k_chat" / "adapter.jsonl"
    monkeypatch.setattr(fedloom.suites.kinds.answer, "ITEMS_AT_ONCE", 4)
    carry_out(f"{command} --limit 3")
    carry_out(f"{command} --limit 9")
    resumed = file.read_text()
    file.unlink()
    monkeypatch.setattr(fedloom.suites.kinds.answer, "ITEMS_AT_ONCE", 256)
    carry_out(f"{command} --limit 9")
    assert file.read_text() == resumed


def test_a_package_that_is_missing_is_told_before_a_model_is_loaded(finished, shared, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    monkeypatch.setattr("fedloom.suites.command.open_bench", lambda _: pytest.fail("loaded the model"))
    told = refused("evaluate", "run", "--suite", "ifeval", "--data", shared / "data")
    contains(told, "task ifeval needs the package 'langdetect'", "fedloom[suites]")


def test_training_does_not_notice_that_answers_are_asked_for(tmp_path, shared, finished_run):
    suites = {"names": ["fiqa"], "every": 1, "data": str(shared / "data"), "limit": 3}
    asked = pocket_run(tmp_path, evaluation={"suites": suites})
    for path in (finished_run / "adapter").iterdir():
        assert (asked / "adapter" / path.name).read_bytes() == path.read_bytes()
    events = [event for event in read_events(asked / "events.jsonl") if event["event"] == "suites"]
    assert [(event["arm"], event["round"]) for event in events] == [("base", 0), ("federated", 1), ("federated", 2)]
    carry_out(f"fedloom evaluate {asked} --suite fiqa --data {shared / 'data'} --limit 3")
    after = json.loads((asked / "evaluation.json").read_text())["tasks"]["fiqa"]["adapter"]
    logged = events[-1]["tasks"]["fiqa"]
    assert {key: after[key] for key in logged if key != "measure"} == {
        key: value for key, value in logged.items() if key != "measure"
    }
