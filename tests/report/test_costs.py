from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedloom.report.events import EventLog
from fedloom.report.html import write_report
from tests.report.pages import Page

ROUND = {"loss": 1.0, "tokens": 100, "aggregate_seconds": 2.0}


def page_with(folder: Path, write: Callable[..., Path], **fields: Any) -> Page:
    """The report of an unfinished run of three rounds that each record some more."""
    run_dir = write(folder / "run", finished=False)
    log = EventLog(run_dir / "events.jsonl")
    log.truncate(0)
    log.append("start", name="costs", data_seconds=4.0)
    for number in (1, 2, 3):
        traffic = {"bytes_up": 1000 * number, "bytes_down": 4000, "clients": ["north", "south"]}
        log.append("round", round=number, train_seconds=10.0, **ROUND, **traffic, **fields)
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_traffic_by_round_in_total_and_by_client(tmp_path: Path, write: Callable[..., Path]) -> None:
    page = page_with(tmp_path, write)
    assert "6.0 kB" in page.text  # up: 1, 2 and 3 kB
    assert "12.0 kB" in page.text
    assert "1.0 kB up, 2.0 kB down" in page.text  # two clients, three rounds
    assert [page.row(str(number), table=1) for number in (1, 2, 3)] == [
        ["1.0 kB", "4.0 kB"],
        ["2.0 kB", "4.0 kB"],
        ["3.0 kB", "4.0 kB"],
    ]


def test_waiting_for_the_slowest_process(tmp_path: Path, write: Callable[..., Path]) -> None:
    page = page_with(tmp_path, write, process_seconds=[9.0, 5.0])
    # The slowest works for 9 s of the round's 10, the mean process for 7: it waits 2 s a round.
    assert page.row("waiting for the slowest process")[0] == "6.0 s"
    assert page.row("computing on clients")[0] == "24 s"
    assert page.row("process 0") == ["27 s", "0.0 s"]
    assert page.row("process 1") == ["15 s", "12 s"]


def test_a_run_in_one_process_waits_for_none(tmp_path: Path, write: Callable[..., Path]) -> None:
    page = page_with(tmp_path, write)
    assert "waiting" not in page.text
    assert page.row("computing on clients")[0] == "30 s"


def test_simulated_waiting_is_called_simulated(tmp_path: Path, write: Callable[..., Path]) -> None:
    fields = {"simulated_seconds": 40.0, "simulated_waiting_seconds": 10.0, "missing": {"west": "dropped out"}}
    page = page_with(tmp_path, write, **fields)
    assert "nobody has waited for it" in page.text
    assert "simulated waiting of a client for the end of a round" in page.text
    assert "10 s of a round's 40 s (25 %)" in page.text
    assert "3 of 9" in page.text
    assert "waiting for the slowest process" not in page.text


def test_which_rule_ended_the_rounds(tmp_path: Path, write: Callable[..., Path]) -> None:
    run_dir = write(tmp_path / "run")
    EventLog(run_dir / "events.jsonl").append("stop", round=3, rule="patience", limit=2, reached=2, best=1.5)
    assert "stopped after round 3: no loss below 1.500 in 2 evaluations." in write_report(run_dir).read_text()
