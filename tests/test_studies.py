"""What the studies stand on: cells that outlive a kill, a search of a fixed length, intervals."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.report.events import read_events
from tests.federated_runs import recipe, write_examples

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


def simulated(losses, seconds, base=3.0):
    """A result of benchmarks/jcpba.py, evaluated after every second round."""
    curve = [{"round": 2 * number, "own": {"loss": loss}} for number, loss in enumerate(losses, start=1)]
    return {"curve": curve, "own": curve[-1]["own"], "base": {"own": {"loss": base}}, "clock": {"seconds": seconds}}


def test_simulated_time_to_a_loss_is_interpolated_between_evaluations():
    from jcpba_tables import course, reaches, target_of

    plain = simulated([2.0, 1.0], [10.0, 20.0, 30.0, 40.0])
    assert [(point.round, point.seconds, point.loss) for point in course(plain)] == [(0, 0, 3), (2, 30, 2), (4, 100, 1)]
    # 90 % of the fall from 3 to 1 is 1.2: four fifths of the way from the second evaluation to the third.
    assert target_of(plain, 0.9) == pytest.approx(1.2)
    found = reaches(course(plain), target_of(plain, 0.9))
    assert (found.round, found.seconds) == (pytest.approx(3.6), pytest.approx(86.0))
    # One that is there before the first round has begun needs no time, one that is never there has none.
    assert reaches(course(plain), 3.0).seconds == 0
    assert reaches(course(plain), 0.9) is None
    assert course({"loss": None, "failed": "diverged", "base": {}, "clock": {}}) == []


def test_what_a_scheme_saves_is_told_seed_by_seed_and_only_where_every_seed_reaches_the_target():
    from jcpba_tables import _to_target

    plain = [simulated([2.0, 1.0], [10.0] * 4), simulated([2.0, 1.0], [20.0] * 4)]
    quick = [simulated([2.0, 1.0], [5.0] * 4), simulated([2.0, 1.0], [10.0] * 4)]
    assert _to_target(quick, plain, 1.0) == ["30", "50.0 ± 0.0 %"]
    assert _to_target(plain, plain, 1.0) == ["60", ""]
    worse = [quick[0], simulated([2.0, 1.5], [1.0] * 4)]
    assert _to_target(worse, plain, 1.0) == ["reached with 1 of 2 seeds", ""]


def test_a_cell_is_the_run_that_it_stands_for(tmp_path):
    """The second of two stages goes on from the first one's adapter; costs and rounds are those of both."""
    import fedloom
    from cells import Workbench

    values = recipe(
        write_examples(tmp_path / "words.jsonl"),
        federation={"rounds": 2, "clients_per_round": 2, "layers": {"choose": "importance", "examples": 1}},
        local={"epochs": None, "steps": 2, "sparse": {"share": 0.5}},
        evaluation={"max_examples": 1, "every": 1},
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    stages = [{"federation.layers": None, "local.sparse": None}, {}]
    cell = Workbench(tmp_path / "bench").train_in_stages(tmp_path / "recipe.yaml", stages, "federated")
    first = fedloom.run({**values, **_without_parts(values)}, tmp_path / "first")
    second = fedloom.run(values, tmp_path / "second", overrides=[f"model.adapter.start={first.adapter}"])
    found = json.loads((second.out / "metrics.json").read_text())["eval"]
    for mixture in ("own", "personal"):
        assert cell[mixture]["loss"] == found[mixture]["loss"]
    rounds = [
        event for run in (first, second) for event in read_events(run.out / "events.jsonl") if event["event"] == "round"
    ]
    assert cell["rounds"] == [event["loss"] for event in rounds]
    assert cell["tokens"] == sum(event["tokens"] for event in rounds)
    assert cell["cost"]["bytes_up"] == pytest.approx(sum(event["bytes_up"] for event in rounds) / 8)
    assert [point["round"] for point in cell["curve"]] == [1, 2, 3, 4]


def _without_parts(values):
    federation, local = ({**values[name]} for name in ("federation", "local"))
    del federation["layers"], local["sparse"]
    return {"federation": federation, "local": local}


def test_the_clock_of_a_study_is_that_of_the_run(tmp_path):
    import fedloom
    from cells import Workbench

    values = recipe(
        write_examples(tmp_path / "words.jsonl"),
        federation={
            "rounds": 2,
            "clients_per_round": 3,
            "participation": {"wireless": {"scenario": "narrow-band", "scheme": "alternation"}},
        },
        local={"epochs": None, "steps": 1, "pruning": {"calibration_examples": 1}},
        evaluation={"max_examples": 1},
    )
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    clock = Workbench(tmp_path / "bench").clock(tmp_path / "recipe.yaml", {})
    fedloom.run(values, tmp_path / "run")
    events = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "round"]
    assert clock["seconds"] == [event["simulated_seconds"] for event in events]
    for number, event in enumerate(events):
        clients = event["simulated_clients"].values()
        for name in ("compute_seconds", "send_seconds", "prune_rate"):
            assert clock[name][number] == pytest.approx(sum(one[name] for one in clients) / 3)


RESULTS, DOCS = FOLDER / "results", FOLDER.parent / "docs"


def test_fibecfeds_page_has_the_tables_and_the_plot_of_its_cells():
    from cells import CellFile
    from fibecfed_cells import ALPHAS, CONTENDERS, REPORTED, Study
    from fibecfed_tables import accuracy_table, cost_table, long_table, plot, tuning_table

    page, cells = (DOCS / "fibecfed.md").read_text(), CellFile(None, [RESULTS / "fibecfed.jsonl"])
    for alpha in ALPHAS:
        study = Study(alpha, REPORTED, cells, None)
        done = {
            name: results
            for name in CONTENDERS
            if (results := {dataset: found for dataset in REPORTED if (found := study.final(name, dataset))})
        }
        short = {name: results for name, results in done.items() if CONTENDERS[name].rate_of is None}
        assert all(len(results) == len(REPORTED) for results in done.values())
        tables = [accuracy_table(short), cost_table(short), tuning_table(study, short)]
        if len(short) < len(done):
            tables.append(long_table(done))
            assert (DOCS / "fibecfed.svg").read_text() == plot(short)
        assert [table for table in tables if table not in page] == []


def test_jcpbas_page_has_the_tables_and_the_plot_of_its_cells():
    from cells import CellFile
    from jcpba_cells import SETTINGS, Study
    from jcpba_tables import cost_table, found_of, plot, time_table

    page, cells = (DOCS / "jcpba.md").read_text(), CellFile(None, [RESULTS / "jcpba.jsonl"])
    found = {dataset: found_of(Study(dataset, cells, None)) for dataset in SETTINGS}
    assert [
        dataset for dataset, one in found.items() if time_table(one) not in page or cost_table(one) not in page
    ] == []
    assert (DOCS / "jcpba.svg").read_text() == plot(found)
