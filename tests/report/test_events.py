from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedloom.report.events import EventLog, read_events


def test_events_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "run" / "events.jsonl")
    written = [log.append("start", name="héllo"), log.append("round", round=1, loss=1.5)]
    assert read_events(log.path) == written
    assert [event["event"] for event in written] == ["start", "round"]
    assert all(event["time"] > 1e9 for event in written)


def test_position_is_the_size_of_the_file_and_survives_reopening(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.position == 0
    log.append("start", name="é")
    assert log.position == log.path.stat().st_size == EventLog(log.path).position


def test_torn_last_line_is_ignored_and_overwritten(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("start")
    with open(log.path, "ab") as file:
        file.write(b'{"event": "round", "time": 17\xc3')
    assert [event["event"] for event in read_events(log.path)] == ["start"]
    resumed = EventLog(log.path)
    assert resumed.position == log.position
    resumed.append("round", round=1)
    assert [event["event"] for event in read_events(log.path)] == ["start", "round"]


def test_truncate_cuts_complete_and_torn_lines(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("start")
    checkpoint = log.position
    log.append("round", round=1)
    with open(log.path, "ab") as file:
        file.write(b'{"event": "rou')
    resumed = EventLog(log.path)
    resumed.truncate(checkpoint)
    assert resumed.position == checkpoint == log.path.stat().st_size
    resumed.append("round", round=1, loss=2.0)
    assert [event.get("loss") for event in read_events(log.path)] == [None, 2.0]


@pytest.mark.parametrize("position", [-1, 5, 10_000])
def test_truncate_refuses_what_is_not_the_end_of_a_line(tmp_path: Path, position: int) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("start")
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match=r"events\.jsonl"):
        log.truncate(position)
    assert log.path.read_bytes() == before


def test_truncate_to_zero_without_a_file(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.truncate(0)
    assert read_events(log.path) == []


def test_json_is_strict(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    log = EventLog(tmp_path / "events.jsonl")
    log.append(
        "round",
        loss=float("nan"),
        nested={"up": [float("inf"), -float("inf"), 1.0]},
        scalar=np.float32(0.5),
        count=np.int64(3),
        array=np.array([1.0, np.nan]),
        path=Path("a/b"),
    )
    event = json.loads(log.path.read_text(), parse_constant=refuse)
    assert event["loss"] is None
    assert event["nested"] == {"up": [None, None, 1.0]}
    assert (event["scalar"], event["count"], event["array"]) == (0.5, 3, [1.0, None])
    assert event["path"] == "a/b"


def test_unknown_type_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("start")
    with pytest.raises(TypeError, match="object"):
        log.append("round", loss=object())
    assert len(read_events(log.path)) == 1


def test_broken_complete_line_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start", "time": 1}\nnot json\n')
    with pytest.raises(ValueError, match="line 2"):
        read_events(path)


def test_listeners_get_events_after_they_are_on_disk(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    seen: list[tuple[str, int]] = []
    log.add_listener(lambda event: seen.append((event["event"], len(read_events(log.path)))))
    log.append("start")
    log.append("end", seconds=1.0)
    assert seen == [("start", 1), ("end", 2)]


def test_failing_listener_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    seen: list[str] = []

    def fail(event: object) -> None:
        raise OSError("disk full")

    log.add_listener(fail)
    log.add_listener(lambda event: seen.append(event["event"]))
    with pytest.warns(UserWarning, match="disk full"):
        log.append("start")
    log.append("end")
    assert seen == ["start", "end"]
