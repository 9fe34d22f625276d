from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from fedloom.report.progress import Progress, closing_table
from fedloom.report.results import average_results
from fedloom.report.units import MISSING


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def federated_round(number: int, time: float, loss: float | None = 1.2344) -> dict[str, Any]:
    return {
        "event": "round",
        "time": time,
        "round": number,
        "loss": loss,
        "train_seconds": 2.0,
        "aggregate_seconds": 0.1,
    }


def test_one_plain_line_per_round() -> None:
    console = plain_console()
    with Progress({"federated": 20}, console) as progress:
        progress({"event": "start", "time": 100.0})
        for number in (1, 2, 3):
            progress(federated_round(number, 100.0 + 2.1 * number))
        progress({"event": "evaluation", "time": 107.0, "arm": "federated", "round": 3, "result": {"loss": 1.0}})
    lines = printed(console).splitlines()
    assert lines[2] == "federated round 3/20  loss 1.234  2.1 s  left 36 s"
    assert len(lines) == 3


def test_time_left_counts_the_arms_still_to_come_and_not_those_passed() -> None:
    console = plain_console()
    with Progress({"federated": 4, "local": 10}, console) as progress:
        progress({"event": "start", "time": 0.0})
        progress(federated_round(1, 1.0))
        local = {"event": "baseline_round", "arm": "local", "round": 9, "loss": 1.0, "train_seconds": 3.0}
        progress({**local, "time": 4.0})
    lines = printed(console).splitlines()
    assert lines[0].endswith("left 13 s")
    assert lines[1] == "local round 9/10  loss 1.000  3.0 s  left 3.0 s"


def test_after_a_stop_the_rounds_are_those_that_are_left() -> None:
    console = plain_console()
    with Progress({"federated": 20, "local": 10}, console) as progress:
        progress(federated_round(1, 102.0))
        progress({"event": "stop", "time": 102.0, "round": 1, "rounds": {"federated": 1, "local": 2}})
        progress({**federated_round(1, 104.0), "event": "baseline_round", "arm": "local"})
    assert printed(console).splitlines()[-1].split("  ")[0] == "local round 1/2"
    assert printed(console).splitlines()[-1].endswith("left 2.0 s")


def test_resumed_run_and_diverged_loss() -> None:
    console = plain_console()
    with Progress({"federated": 10}, console) as progress:
        progress(federated_round(8, 500.0, loss=None))
    assert printed(console) == f"federated round 8/10  loss {MISSING}  2.1 s  left 4.2 s\n"


def test_bar_in_a_terminal_leaves_nothing_behind_but_shows_the_round() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Progress({"federated": 2}, console) as progress:
        progress({"event": "start", "time": 0.0})
        progress(federated_round(1, 2.0))
        result = {"loss": 1.0, "accuracy": 0.625}
        progress({"event": "evaluation", "time": 2.5, "arm": "federated", "round": 1, "result": result})
        assert progress._bar is not None
        progress._bar.refresh()
    shown = printed(console)
    assert "federated round 1/2" in shown
    assert "62.5 %" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the last thing done is to erase the line


def table_text(metrics: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(closing_table(metrics))
    return printed(console)


def test_closing_table_has_arms_in_order_and_both_test_sets(metrics: dict[str, Any]) -> None:
    text = table_text(metrics)
    assert text.index("base") < text.index("local") < text.index("federated")
    assert "centralized" not in text
    assert "own mixture" in text
    assert "global test" in text
    assert "60.0 %" in text
    assert "55.0 %" in text
    assert "up 120 kB, down 240 kB" in text
    assert "12 s" in text


def test_closing_table_with_loss_only_has_one_column() -> None:
    loss_only = {"loss": 1.25, "own": {"loss": 1.25, "examples": 3}, "clients": {}}
    table = closing_table({"name": "run", "eval": loss_only, "baselines": {"base": {"loss": None}}})
    assert [column.header for column in table.columns] == ["", "loss"]
    assert [list(column.cells) for column in table.columns] == [["base", "federated"], [MISSING, "1.250"]]


def test_closing_table_of_seeds_shows_deviations(result: Callable[..., dict[str, Any]]) -> None:
    merged = average_results([result(0.5, 1.0), result(0.7, 1.2)])
    unseen = {"unseen": merged["own"]}
    text = table_text({"name": "run", "seeds": [0, 1], "eval": merged | unseen, "baselines": {}})
    assert "60.0 ± 14.1 %" in text
    assert "1.100 ± 0.141" in text
    assert "over 2 seeds" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_names_are_not_markup() -> None:
    assert "[bold]x" in table_text({"name": "[bold]x", "eval": {"loss": 1.0}, "baselines": {}})


def test_average_leaves_out_what_a_seed_lacks() -> None:
    merged = average_results([{"loss": 1.0, "accuracy": 0.5}, {"loss": 2.0, "accuracy": None}])
    assert merged == {"loss": 1.5, "loss_sd": pytest.approx(0.5**0.5)}
