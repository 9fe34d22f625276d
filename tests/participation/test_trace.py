"""Availability traces: what a file may hold, who can be drawn when, and how time goes on while nobody can."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import UserError
from fedloom.participation import AvailabilityTrace, check_participation, read_trace
from fedloom.recipe.participation_schema import ParticipationConfig
from tests.participation.populations import names, participation, write_trace

A, B, C = names(3)


def test_json_lines_and_csv_say_the_same(tmp_path):
    lines = write_trace(tmp_path / "trace.jsonl", (A, 0, 5), (B, 2.5, 8), (A, 7, 9))
    table = tmp_path / "trace.csv"
    table.write_text(f"client,from,to\n{A},0,5\n{B},2.5,8\n{A},7,9\n")
    for file in (lines, str(table)):
        trace = read_trace(file, names(3))
        found = {time: trace.available(time).tolist() for time in (0, 2.4, 2.5, 4.9, 5, 7, 8, 8.9, 9, 12)}
        assert found == {
            0: [0],
            2.4: [0],
            2.5: [0, 1],
            4.9: [0, 1],
            5: [1],
            7: [0, 1],
            8: [0],
            8.9: [0],
            9: [0],
            12: [0, 1],
        }


def test_overlapping_intervals_make_a_client_available_once(tmp_path):
    trace = read_trace(write_trace(tmp_path / "trace.jsonl", (A, 0, 5), (A, 1, 6), (B, 3, 4)), names(3))
    assert trace.available(3).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("t.txt", "", ["t.txt is none of: .jsonl, .csv"]),
        ("t.jsonl", "", ["t.jsonl holds no intervals"]),
        ("t.jsonl", "{\n", ["t.jsonl:1: not valid JSON"]),
        ("t.jsonl", '{"client": "client-000", "to": 0}\n', ["t.jsonl:1 has the fields client, to, not client, from"]),
        ("t.csv", "client,from,to,x\nclient-000,0,1,2\n", ["t.csv:2 has the fields client, from, to, x"]),
        ("t.csv", "client,from,to\nclient-000,0,1\nclient-0000,0,1\n", ["t.csv:3: 'client-0000' is no"]),
        ("t.csv", "client,from,to\nclient-000,soon,1\n", ["t.csv:2: from is 'soon', not a number"]),
        ("t.csv", "client,from,to\nclient-000,0,inf\n", ["t.csv:2: to is 'inf', not a number"]),
        ("t.jsonl", '{"client": "client-000", "from": true, "to": 3}\n', ["t.jsonl:1: from is True"]),
        ("t.jsonl", '{"client": "client-000", "from": null, "to": 3}\n', ["t.jsonl:1: from is None"]),
        ("t.csv", "client,from,to\nclient-000,5,5\n", ["t.csv:2: from 5 to 5 is no interval"]),
        ("t.csv", "client,from,to\nclient-000,5,4\n", ["t.csv:2: from 5 to 4 is no interval"]),
        ("t.csv", "client,from,to\nclient-000,-1,4\n", ["t.csv:2: from -1 to 4", "0 <= from < to"]),
        ("t.csv", "client,from,to\nclient-000,1\n", ["t.csv:2: 2 values for 3 columns"]),
    ],
)  # fmt: skip
def test_files_that_are_no_trace(tmp_path, name, text, parts):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as refusal:
        read_trace(str(tmp_path / name), names(3))
    told = str(refusal.value)
    assert told.startswith("federation.participation.availability_trace: ") or name in told
    assert "\n" not in told
    for part in parts:
        assert part in told


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"availability_trace: no such file: .*nothere\.csv"):
        read_trace(str(tmp_path / "nothere.csv"), names(3))


def test_only_available_clients_are_drawn_and_as_many_as_there_are(tmp_path):
    file = write_trace(tmp_path / "trace.jsonl", (A, 0, 2), (B, 0, 4), (C, 3, 4))
    drawing = participation(3, 2, availability_trace=file)
    drawn = [drawing.round(number).clients for number in range(1, 9)]
    # A round starts after as many rounds as came before it; the trace repeats after its fourth.
    assert drawn == [(A, B), (A, B), (B,), (B, C)] * 2


def test_rounds_of_which_nobody_can_be_part_pass(tmp_path):
    file = write_trace(tmp_path / "trace.jsonl", (A, 0, 1), (B, 3, 4))
    drawing = participation(3, 1, availability_trace=file)
    found = [drawing.round(number) for number in range(1, 5)]
    assert [one.clients for one in found] == [(A,), (), (), (B,)]
    assert {one.seconds for one in found} == {None}
    assert not any(one.missing for one in found)


def test_simulated_time_goes_on_to_the_next_availability(tmp_path):
    file = write_trace(tmp_path / "trace.jsonl", (A, 0, 1.5), (B, 10, 11), (C, 30, 40))
    exact = {"spread": 0, "jitter": 0}
    # A round lasts 1000 tokens / 1000 per second = 1 s.
    drawing = participation(3, 1, availability_trace=file, clock=exact)
    found = [drawing.round(number) for number in range(1, 7)]
    assert [one.clients for one in found] == [(A,), (A,), (), (B,), (), (C,)]
    assert [one.seconds for one in found] == [1, 1, 8, 1, 19, 1]


def test_the_first_round_may_have_to_wait(tmp_path):
    file = write_trace(tmp_path / "trace.jsonl", (B, 12.5, 20))
    drawing = participation(3, 1, availability_trace=file, clock={})
    assert (drawing.round(1).clients, drawing.round(1).seconds) == ((), 12.5)
    assert drawing.round(2).clients == (B,)


def test_a_trace_restricts_draws_by_examples_too(tmp_path):
    file = write_trace(tmp_path / "trace.jsonl", (A, 0, 1), (C, 0, 1))
    drawing = participation(3, 1, [1, 1000, 3], availability_trace=file, sampling="examples")
    rounds = 3000
    share = sum(drawing.round(number).clients == (C,) for number in range(1, rounds + 1)) / rounds
    assert abs(share - 0.75) < 4.5 * (0.75 * 0.25 / rounds) ** 0.5


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    intervals = [(client, 5.0 * place, 5.0 * place + 7) for place, client in enumerate(names(12))]
    section = {
        "availability_trace": write_trace(tmp_path / "trace.jsonl", *intervals),
        "clock": {},
        "drop_out": 0.2,
        "deadline": 2.0,
    }
    whole = participation(12, 2, **section)
    uninterrupted = [whole.round(number) for number in range(1, 81)]
    for number in (1, 2, 17, 80, 40):
        assert participation(12, 2, **section).round(number) == uninterrupted[number - 1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 1e5), st.floats(1e-3, 1e5)),
        min_size=1,
        max_size=8,
    ),
    st.floats(0, 1e6),
)
def test_after_waiting_somebody_is_available(intervals, time):
    clients, starts, lengths = (np.array(column) for column in zip(*intervals, strict=True))
    trace = AvailabilityTrace(clients.astype(np.int64), starts, starts + lengths)
    if len(trace.available(time)) == 0:
        wait = trace.wait(time)
        assert 0 < wait <= (starts + lengths).max()
        assert len(trace.available(time + wait)) > 0


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"sampling": "examples"}, ["sampling: 'examples' has no effect", "all 3 training clients"]),
        ({"over_selection": 1.5, "clock": {}}, ["over_selection: 1.5 has no effect", "lower federation.clients_per"]),
    ],
)
def test_options_without_effect_where_everybody_is_drawn(section, parts):
    config = ParticipationConfig.model_validate(section)
    with pytest.raises(UserError) as refusal:
        check_participation(config, 3, names(3))
    for part in parts:
        assert part in str(refusal.value)
    check_participation(config, 2, names(3))
