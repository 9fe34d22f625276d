from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom.evaluation.score_summary import ScoreSummary
from fedloom.evaluation.scoring import Scores
from fedloom.report.events import EventLog
from fedloom.report.html import write_report
from fedloom.report.results import average_results
from tests.report.pages import Page

EVIL = "<script>alert('x')</script>\"&"


def page_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_report_of_a_finished_run(finished_run: Path) -> None:
    page = page_of(finished_run)
    for expected in (
        "two-sites",
        "beats the average client alone by 20.0 points of accuracy: 55.0 % against 35.0 %.",
        "own mixture",
        "global test",
        "better than training alone for 2 of 2 clients",
        "Training loss",
        "120 kB",
        "240 kB",
        "aggregation",
        "torch 2.13.0",
        "federation:\n  rounds: 9",
        "dates",
    ):
        assert expected in page.text
    assert "Not finished" not in page.text
    assert list(finished_run.glob("*.tmp")) == []


def test_report_needs_nothing_from_elsewhere(finished_run: Path) -> None:
    source = write_report(finished_run).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    for tag, attributes in Page(source).tags:
        assert tag not in {"link", "img", "iframe", "object", "base"}
        assert not {"src", "href", "xlink:href"} & set(attributes)


def test_everything_from_data_is_escaped(tmp_path: Path, write: Callable[..., Path]) -> None:
    run_dir = write(tmp_path / "run", clients=(EVIL, "south"))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["name"] = EVIL
    metrics["eval"]["categories"] = {EVIL: {"accuracy": 0.5, "examples": 1}}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (run_dir / "recipe.yaml").write_text(f"name: {EVIL}\n")
    log = EventLog(run_dir / "events.jsonl")
    log.truncate(0)
    log.append("start", name=EVIL, fedloom=EVIL, device=EVIL, dtype=EVIL, versions={EVIL: EVIL}, clients=2)
    page = page_of(run_dir)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.text.count(EVIL) >= 6
    assert "alert" not in " ".join(name for _, attributes in page.tags for name in attributes)


def test_tooltips_of_charts_are_escaped(tmp_path: Path, write: Callable[..., Path]) -> None:
    run_dir = write(tmp_path / "run", clients=tuple(f"{EVIL}{number}" for number in range(60)))
    page = page_of(run_dir)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    tips = [attributes["data-tip"] or "" for _, attributes in page.tags if "data-tip" in attributes]
    # A column for each client, and a dot under each of the three arms.
    assert sum(tip.startswith(EVIL) for tip in tips) == 60 + 3 * 60


def test_run_still_going(running_run: Path) -> None:
    page = page_of(running_run)
    assert "Not finished: 3 of 9 rounds done" in page.text
    assert "has not been evaluated yet" in page.text
    assert "Training loss" in page.text


def test_run_that_has_just_started(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl").append("start", name="fresh")
    page = page_of(tmp_path)
    assert "fresh" in page.text
    assert "0 rounds done" in page.text
    assert "Learning curves" not in page.text


def test_metrics_without_events(tmp_path: Path, metrics: dict[str, Any]) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    page = page_of(tmp_path)
    assert "20.0 points" in page.text
    assert "120 kB" in page.text


def test_diverged_run(tmp_path: Path, write: Callable[..., Path]) -> None:
    run_dir = write(tmp_path / "run", finished=False)
    log = EventLog(run_dir / "events.jsonl")
    log.append("round", round=4, clients=[], loss=float("nan"))
    log.append("evaluation", arm="federated", round=4, seconds=0.1, result={"loss": float("nan")})
    assert "training has diverged" in page_of(run_dir).text


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run directory"):
        write_report(tmp_path)


def seed_directory(folder: Path, write: Callable[..., Path]) -> list[dict[str, Any]]:
    runs = [write(folder / f"seed-{seed}", shift=0.1 * index) for index, seed in enumerate((0, 1, 10))]
    return [json.loads((run / "metrics.json").read_text()) for run in runs]


def test_several_seeds(tmp_path: Path, write: Callable[..., Path]) -> None:
    each = seed_directory(tmp_path, write)
    averaged = {
        **each[0],
        "seeds": [0, 1, 10],
        "eval": average_results([one["eval"] for one in each]),
        "baselines": {arm: average_results([one["baselines"][arm] for one in each]) for arm in ("base", "local")},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(averaged))
    page = page_of(tmp_path)
    # 60, 70 and 80 %: the mean, and 4.303 * 10 / sqrt(3) points around it.
    assert page.row("Federated")[0] == "70.0 % 45.2 to 94.8"
    assert "(means over 3 seeds)" in page.text
    assert re.search(r"seed 0.*seed 1\b.*seed 10", page.text, flags=re.DOTALL)
    assert any(attributes.get("class") == "band federated" for _, attributes in page.tags)
    assert any(attributes.get("class") == "whisker" for _, attributes in page.tags)


def test_several_seeds_still_going(tmp_path: Path, write: Callable[..., Path]) -> None:
    seed_directory(tmp_path, write)
    page = page_of(tmp_path)
    assert "Not finished" in page.text
    assert page.row("Federated")[0] == "70.0 % 45.2 to 94.8"


def test_clients_too_many_to_name_are_told_as_quantiles(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    del metrics["baselines"]["base"]
    for result, best in ((metrics["eval"], 97), (metrics["baselines"]["local"], 83)):
        summary = ScoreSummary(exact_match=True)
        for right in range(best + 1):
            summary.add(Scores(np.ones(100), np.ones(100, dtype=np.int64), np.arange(100) < right))
        result["own"] = {**summary.mean(), "quantiles": summary.quantiles()}
        del result["clients"]
    (finished_run / "metrics.json").write_text(json.dumps(metrics))
    page = page_of(finished_run)
    assert "too many clients to name" in page.text
    # Of 0 to 97 %: the ten lowest are 0 to 9 %, and sum |x - y| / (2 n^2 mean) is 0.3367.
    assert page.row("Federated", table=1) == ["48.5 %", "4.5 %", "0.337", "0.0 %", "97.0 %"]
    assert page.row("Each client alone", table=1)[-1] == "83.0 %"
