"""What the studies stand on: cells that outlive a kill, a search of a fixed length, intervals."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def test_cells_are_done_once_and_a_torn_line_is_done_again(tmp_path):
    from cells import CellFile

    file, done = tmp_path / "study.jsonl", []

    def work(name):
        def note():
            done.append(name)
            return {"loss": float(len(done)), "of": name}

        return note

    cells = CellFile(file)
    for name in "abab":
        cells.result_of({"name": name, "seed": 0}, work(name))
    assert done == ["a", "b"]
    content = file.read_bytes()
    for end in range(len(content)):
        file.write_bytes(content[:end])
        again = CellFile(file)
        whole = content[:end].count(b"\n")
        found = [again.result({"seed": 0, "name": name}) for name in "ab"]
        assert [result is not None for result in found] == [whole > 0, whole > 1]
        assert file.read_bytes() == b"".join(content.splitlines(keepends=True)[:whole])
    assert CellFile(file).result_of({"name": "b", "seed": 0}, work("b")) == {"loss": 3.0, "of": "b"}
    assert done == ["a", "b", "b"]


def test_a_cell_that_diverged_is_done_too(tmp_path):
    from cells import CellFile

    cells = CellFile(tmp_path / "study.jsonl")
    assert cells.result_of({"name": "a"}, lambda: {"loss": math.nan}) == {"loss": None}
    assert CellFile(tmp_path / "study.jsonl").result({"name": "a"}) == {"loss": None}


@given(
    budget=st.integers(1, 9),
    optimum=st.tuples(st.floats(-4, 0), st.floats(-4, 0)),
    two=st.booleans(),
)
def test_the_search_tries_exactly_its_budget_and_never_anything_twice(budget, optimum, two):
    from federated_study import Axis, best_of, compass_search

    axes = [Axis("rate", 1e-2, 3.0), Axis("server", 1e-2, 10.0)][: 1 + two]

    def loss(configuration):
        return sum((math.log10(configuration[axis.key]) - goal) ** 2 for axis, goal in zip(axes, optimum, strict=False))

    tried = compass_search(loss, axes, budget)
    assert len(tried) == budget
    assert len({tuple(configuration.items()) for configuration, _ in tried}) == budget
    assert best_of(tried)[1] == min(loss(configuration) for configuration, _ in tried)


def test_the_search_goes_on_while_it_gets_better_and_then_refines():
    from federated_study import Axis, at_the_edge, compass_search

    tried = compass_search(lambda one: abs(math.log10(one["rate"])), [Axis("rate", 1e-2, 10.0)], 6)
    assert [configuration["rate"] for configuration, _ in tried] == [0.01, 0.1, 1.0, 10.0, 3.16, 0.316]
    assert at_the_edge(tried) == []
    assert at_the_edge(tried[:3]) == ["rate"]


def test_all_configurations_may_diverge():
    from federated_study import Axis, compass_search

    assert len(compass_search(lambda one: math.inf, [Axis("rate", 1.0, 3.0)], 6)) == 6


def test_the_interval_is_students():
    from cells import told_interval

    # 95 % of three values around their mean: 4.303 * 1 / sqrt(3).
    assert told_interval([1.0, 2.0, 3.0]) == "2.000 ± 2.484"
    assert told_interval([1.0, 2.0, 3.0], signed=True) == "+2.000 ± 2.484"
    assert told_interval([1.0]) == "1.000"
    assert told_interval([1.0, math.inf]) == "failed"


def curve(*points):
    return [{"cpu_seconds": cpu, "seconds": 2 * cpu, "own": {"accuracy": value}} for cpu, value in points]


def test_seconds_to_the_rivals_final_accuracy_are_those_of_mean_curves():
    from fibecfed_tables import course, speed

    rival = {"a": [{"curve": curve((10, 0.5), (20, 0.7))}, {"curve": curve((14, 0.6), (24, 0.8))}]}
    assert [(point.cpu, point.accuracy) for point in course(rival["a"])] == [(12, 0.55), (22, 0.75)]
    # Its final accuracy, 0.75, is reached after 22 s there, after 5.5 s here.
    quick = {"a": [{"curve": curve((5, 0.75), (9, 0.6))}, {"curve": curve((6, 0.75), (9, 0.6))}]}
    assert speed(quick, rival) == ["1 of 1", "4.00", "4.00"]
    slow = {"a": [{"curve": curve((5, 0.7), (9, 0.74))}], "b": [{"curve": curve((1, 1.0))}]}
    assert speed(slow, rival) == ["0 of 1", "", ""]
    failed = {"a": [{"curve": curve((1, 1.0))}, {"loss": None, "failed": "diverged"}]}
    assert speed(failed, rival) == ["0 of 1", "", ""]


def test_what_a_client_would_use_is_its_personal_model_where_it_has_one():
    from fibecfed_cells import accuracy

    assert accuracy({"own": {"accuracy": 0.5}, "personal": {"accuracy": 0.75}}) == 0.75
    assert accuracy({"own": {"accuracy": 0.5}}) == 0.5
    assert accuracy({"loss": None, "failed": "diverged"}) == 0.0


def test_cells_of_other_processes_are_read_and_not_written(tmp_path):
    from cells import CellFile

    CellFile(tmp_path / "theirs.jsonl").result_of({"name": "a"}, lambda: {"loss": 1.0})
    before = (tmp_path / "theirs.jsonl").read_bytes()
    mine = CellFile(tmp_path / "mine.jsonl", [tmp_path / "theirs.jsonl"])
    assert mine.result({"name": "a"}) == {"loss": 1.0}
    mine.result_of({"name": "b"}, lambda: {"loss": 2.0})
    assert (tmp_path / "theirs.jsonl").read_bytes() == before
    assert CellFile(tmp_path / "mine.jsonl").result({"name": "a"}) is None
