"""The section on the simulated clock: losses over its time, and who does what when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedloom.report.comparison import render
from fedloom.report.comparison_record import read_comparison
from fedloom.report.events import EventLog
from fedloom.report.html import write_report
from fedloom.report.units import MISSING
from fedloom.run_directory import write_json
from tests.report.comparisons import comparison
from tests.report.conftest import make_result
from tests.report.pages import Page

TIMES = {"receive_seconds": 1.0, "compute_seconds": 4.0, "send_seconds": 2.0, "prune_rate": 0.25, "bandwidth_hz": 5e5}


def page_of(folder: Path, write: Callable[..., Path], seconds: list[float], clients: dict[str, Any] | None) -> Page:
    run_dir = write(folder / "run", finished=False)
    log = EventLog(run_dir / "events.jsonl")
    log.truncate(0)
    log.append("start", name="cell", data_seconds=4.0)
    log.append("evaluation", arm="base", round=0, seconds=0.1, result=make_result(0.1, 2.0))
    for number, lasted in enumerate(seconds, 1):
        fields = {"bytes_up": 1000, "bytes_down": 4000, "train_seconds": 10.0, "aggregate_seconds": 1.0}
        told = {} if clients is None else {"simulated_clients": clients}
        log.append(
            "round", round=number, clients=list(clients or ()), loss=1.0 / number, tokens=1, simulated_seconds=lasted,
            **fields, **told,
        )  # fmt: skip
        log.append("evaluation", arm="federated", round=number, seconds=0.1, result=make_result(0.2, 1.5))
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_losses_stand_at_the_seconds_that_have_passed(tmp_path: Path, write: Callable[..., Path]) -> None:
    page = page_of(tmp_path, write, [40.0, 20.0, 60.0], None)
    # Rounds end after 40, 60 and 120 simulated seconds: as an axis, 2 minutes.
    assert page.row("0.67", table=1) == [MISSING, "1.500"]
    assert page.row("2.00", table=2) == ["0.333"]
    label = next(
        value
        for tag, found in page.tags
        if tag == "svg" and "simulated clock" in (value := found.get("aria-label") or "")
    )
    assert "over simulated time" in label
    assert "simulated minutes" in page.text
    assert "measured: clients to server" in page.text
    assert "Who does what when" not in page.text


def test_a_round_is_drawn_client_by_client_on_one_scale(tmp_path: Path, write: Callable[..., Path]) -> None:
    clients = {"north": {**TIMES, "wait_seconds": 1.0}, "south": {**TIMES, "compute_seconds": 5.0, "wait_seconds": 0.0}}
    page = page_of(tmp_path, write, [8.0] * 9, clients)
    drawn = [found["aria-label"] or "" for tag, found in page.tags if tag == "svg" and found.get("class") == "stack"]
    rows = [label for label in drawn if ", simulated: " in label]
    # Of nine rounds four, the first and the last among them.
    assert len(rows) == 4 * 2
    assert rows[0] == "north, simulated: receive 1 s, compute 4 s, send 2 s, wait 1 s"
    assert [f"Round {number} " in page.text for number in (1, 2, 9)] == [True, False, True]
    assert page.text.count("8 simulated seconds") == 4
    assert page.row("south", table=-1) == ["25.0 %", "0.500", "1", "5", "2", "0"]
    widths = [
        found["width"] for tag, found in page.tags if tag == "rect" and "north: " in (found.get("data-tip") or "")
    ]
    assert widths[:4] == ["12.5%", "50%", "25%", "12.5%"]


def test_a_run_without_a_clock_has_no_such_section(finished_run: Path) -> None:
    assert "simulated" not in write_report(finished_run).read_text(encoding="utf-8")


def test_a_comparison_draws_variants_that_have_a_clock(tmp_path: Path) -> None:
    content = comparison(labels=("fedavg", "jcpba", "clockless"), seeds=2)
    for place, variant in enumerate(content["variants"][:2]):
        for run in variant["runs"]:
            reached = list(range(41))
            run["simulated"] = {"round": reached, "seconds": [at * (2.5 - place) for at in reached]}
    write_json(tmp_path / "compare.json", content)
    page = Page(render(read_comparison(tmp_path)))
    labels = [found["aria-label"] or "" for tag, found in page.tags if tag == "svg" and found.get("class") == "lines"]
    over = [label for label in labels if "over simulated time" in label]
    assert [label.split(",")[0] for label in over] == ["Test accuracy", "Test loss", "Training loss"]
    assert all("jcpba ends" in label and "clockless" not in label for label in over)
    assert "simulated minutes" not in page.text
    assert "simulated seconds" in page.text
