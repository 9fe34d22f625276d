"""evaluation.suites: scores at rounds, beside the results and on the page, and an adapter of the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedloom.report.events import read_events
from fedloom.report.html import write_report
from fedloom.report.trackers import numbers_of
from fedloom.runs import run
from tests.federated_runs import recipe, write_examples
from tests.user_errors import contains
from tests.user_errors.conftest import refused, refused_early

__all__ = ["refused", "refused_early"]
ROUNDS = 4


def values(folder: Path, suites: dict[str, Any] | None) -> dict[str, Any]:
    local = {"epochs": None, "steps": 2, "learning_rate": 2e-2}
    found = recipe(
        write_examples(folder / "words.jsonl", clients=("ada", "bo")),
        federation={"rounds": ROUNDS, "clients_per_round": 2},
        local=local,
        evaluation={} if suites is None else {"suites": suites},
    )
    return {**found, "baselines": ["local"]}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("in-training")
    suites = {"names": ["openbookqa", "siqa"], "every": 2, "data": str(shared / "data"), "limit": 6}
    with_suites = run(values(folder, suites), folder / "with").out
    return with_suites, run(values(folder, None), folder / "without").out


def test_training_does_not_notice(both: tuple[Path, Path]) -> None:
    for path in (both[1] / "adapter").iterdir():
        assert (both[0] / "adapter" / path.name).read_bytes() == path.read_bytes()
    found = [[e["loss"] for e in read_events(out / "events.jsonl") if e["event"] == "round"] for out in both]
    assert found[0] == found[1]


def test_scores_are_logged_and_kept(both: tuple[Path, Path]) -> None:
    events = [event for event in read_events(both[0] / "events.jsonl") if event["event"] == "suites"]
    assert [(event["arm"], event["round"]) for event in events] == [("base", 0), ("federated", 2), ("federated", 4)]
    assert all(event["tasks"]["siqa"]["n"] == 6 and list(event["tasks"]) == ["openbookqa", "siqa"] for event in events)
    assert numbers_of(events[1]) == (
        "federated",
        2,
        {f"suites/{task}": events[1]["tasks"][task]["score"] for task in ("openbookqa", "siqa")},
    )
    metrics = json.loads((both[0] / "metrics.json").read_text())
    assert metrics["eval"]["suites"] == events[2]["tasks"]
    assert metrics["baselines"]["base"]["suites"] == events[0]["tasks"]
    assert "suites" not in metrics["baselines"]["local"]


def test_the_page_has_curves_and_a_table(both: tuple[Path, Path]) -> None:
    page = write_report(both[0]).read_text()
    contains(page, "<h2>Benchmarks</h2>", "openbookqa as a table", "siqa as a table")
    assert "Benchmarks" not in write_report(both[1]).read_text()


def test_what_evaluate_says_afterwards_is_the_same(both: tuple[Path, Path], shared: Path) -> None:
    from tests.processes import carry_out

    carry_out(f"fedloom evaluate {both[0]} --suite siqa --data {shared / 'data'} --limit 6 --baseline base")
    found = json.loads((both[0] / "evaluation.json").read_text())["tasks"]["siqa"]
    last = {e["arm"]: e["tasks"]["siqa"] for e in read_events(both[0] / "events.jsonl") if e["event"] == "suites"}
    for subject, arm in (("adapter", "federated"), ("base", "base")):
        assert found[subject]["measures"] == last[arm]["measures"]


@pytest.mark.parametrize(
    ("suites", "parts"),
    [
        ({"names": ["arc_esy"]}, ["evaluation.suites.names: 'arc_esy' is not one of", "did you mean 'arc_easy'?"]),
        ({"names": ["arc_easy"]}, ["evaluation.suites.data: task arc_easy needs arc_easy.jsonl.gz"]),
        ({"names": ["arc_easy"], "data": "nowhere"}, ["evaluation.suites.data: no such folder: nowhere"]),
        ({"names": ["lm_eval:arc_easy"]}, ["evaluation.suites.names: 'lm_eval:arc_easy'", "fedloom evaluate"]),
        ({"names": ["arc_easy"], "every": 5}, ["evaluation.suites.every: 5 is above federation.rounds, 4"]),
        ({"names": []}, ["evaluation.suites.names"]),
        ({"names": ["arc_easy", "arc_easy"]}, ["names: each once"]),
        ({"names": ["arc_easy"], "limits": 3}, ["evaluation.suites", "limit"]),
    ],
    ids=["name", "file", "folder", "harness", "every", "none", "twice", "key"],
)
def test_mistakes_are_told_before_weights_are_read(
    suites: dict[str, Any], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_early: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    contains(refused_early(values(tmp_path, {"data": "empty", **suites})), *parts)


def test_runs_without_one_adapter_for_all_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_early: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    found = values(tmp_path, {"names": ["arc_easy"], "data": "."})
    found["federation"]["algorithm"] = "fedsa_lora"
    contains(refused_early(found), "evaluation.suites: its clients keep a part of the adapter to themselves")
