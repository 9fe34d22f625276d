"""What stands in each section of the report, as plain values and charts; `html.py` puts them on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.bar_charts import bar, stacked_bar
from fedloom.report.line_chart import WIDTH, line_chart, thinned
from fedloom.report.record import Curve, Record, Run
from fedloom.report.results import ARMS, TEST_SETS, columns, score

NAMES = {
    "base": "Base model",
    "local": "Each client alone",
    "federated": "Federated",
    "fine_tuned": "Federated, then each client alone",
    "centralized": "Pooled data",
}
MEANINGS = {
    "base": "before any fine-tuning",
    "local": "trained on one client's data only, mean over clients",
    "federated": "trained together, data stays with its owner",
    "fine_tuned": "every client goes on from the federation's adapter, mean over clients",
    "centralized": "trained on everybody's data in one place",
}
TEST_SET_MEANINGS = {
    "own": "every client's own test split, mean over clients",
    "personal": "the same tests, each client with the adapter it keeps for itself",
    "global": "one test set for all",
    "unseen": "clients that took no part in training",
}
BYTES_PER_VALUE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

MOST_TABLE_ROWS = 40

Written = Callable[[float | None], str]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A labelled bar."""

    arm: str
    name: str
    text: str
    chart: Markup
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts; `groups` are headings over several columns each."""

    groups: list[tuple[str, int]]
    headings: list[str]
    rows: list[tuple[str, str, list[str]]]  # arm (its colour), heading, cells
    notes: list[str]
    first: str = ""  # the heading of the rows' headings


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its heading."""

    title: str
    note: str
    svg: Markup
    wide: Markup  # of the first chart, where an odd number would leave a gap
    table: Table  # the same numbers


@dataclass(frozen=True, kw_only=True)
class Times:
    """Where the time went."""

    chart: Markup
    rows: list[tuple[str, str, str, str]]  # style, name, duration, share
    total: str


def facts(record: Record) -> list[tuple[str, str]]:
    """The few numbers that say what kind of run this was.

    Args:
        record: the run.

    Returns:
        Headings and values.
    """
    start = record.start
    parameters, examples = start.get("parameters") or {}, start.get("examples") or {}
    found: list[tuple[str, str]] = []
    if start.get("clients") is not None:
        found.append(("clients", units.count_text(start["clients"])))
    rounds = record.metrics.get("rounds") or record.rounds_done
    found.append(("rounds" if record.finished else "rounds so far", units.count_text(rounds)))
    if examples.get("train") is not None:
        found.append(("training examples", units.count_text(examples["train"])))
    if parameters.get("trainable") is not None and parameters.get("base"):
        share = 100 * parameters["trainable"] / parameters["base"]
        found.append(("trained parameters", f"{units.count_text(parameters['trainable'])} ({share:.2g} %)"))
    seconds = _seconds(record)
    if seconds is not None:
        found.append(("time" if record.finished else "time so far", units.seconds_text(seconds)))
    rounds_of = [event for run in record.runs for event in run.rounds("federated").values()]
    rejected = sum(len(event.get("rejected") or ()) for event in rounds_of)
    if rejected:
        found.append(("rejected updates", units.count_text(rejected)))
    simulated = record.mean(lambda run: run.total("simulated_seconds"))
    if simulated:
        found.append(("simulated time", units.seconds_text(simulated)))
    if start.get("device"):
        found.append(("device", " · ".join(str(start[key]) for key in ("device", "dtype") if start.get(key))))
    if record.seeds:
        found.append(("seeds", ", ".join(record.seeds)))
    return found


def score_table(record: Record) -> Table | None:
    """The four arms by test set and measure.

    Args:
        record: the run.

    Returns:
        The table, None without any evaluation.
    """
    shown = columns(list(record.results.values()))
    if not shown:
        return None
    sets = list(dict.fromkeys(test_set for test_set, _ in shown))
    groups = [
        (TEST_SETS[test_set], sum(test_set == other for other, _ in shown)) for test_set in sets if test_set is not None
    ]
    rows = []
    for arm, result in record.results.items():
        reached = [(score(result, test_set), measure) for test_set, measure in shown]
        cells = [
            units.accuracy_text(one.accuracy, one.accuracy_sd)
            if measure == "accuracy"
            else units.loss_text(one.loss, one.loss_sd)
            for one, measure in reached
        ]
        rows.append((arm, NAMES[arm], cells))
    notes = [_test_set_note(record, test_set or "own") for test_set in sets]
    if record.seeds:
        notes.append(f"Mean ± standard deviation over {len(record.seeds)} seeds; thin lines on the bars show it.")
    return Table(groups=groups, headings=[measure for _, measure in shown], rows=rows, notes=notes)


def arm_bars(record: Record) -> tuple[str, list[Bar]]:
    """One bar per arm: what people look at first.

    Args:
        record: the run.

    Returns:
        The heading and the bars.
    """
    scores = {arm: score(result) for arm, result in record.results.items()}
    measure = "accuracy" if any(one.accuracy is not None for one in scores.values()) else "loss"
    known = {arm: one for arm, one in scores.items() if getattr(one, measure) is not None}
    highest = max((getattr(one, measure) for one in known.values()), default=1.0)
    whole = 1.0 if measure == "accuracy" else highest or 1.0
    bars = []
    for arm, one in known.items():
        value, deviation = getattr(one, measure), getattr(one, f"{measure}_sd")
        text = units.accuracy_text(value) if measure == "accuracy" else units.loss_text(value)
        around = deviation or 0.0
        bars.append(
            Bar(
                arm=arm,
                name=NAMES[arm],
                meaning=MEANINGS[arm],
                text=text,
                chart=bar(
                    arm,
                    value / whole,
                    low=(value - around) / whole,
                    high=(value + around) / whole,
                    tip=f"{NAMES[arm]}: {text}",
                ),
            )
        )
    shared = any(result.get("global") for result in record.results.values())
    where = "on the global test" if shared else "on the clients' own tests"
    return (f"Accuracy {where}" if measure == "accuracy" else f"Loss {where}, lower is better"), bars


def curves(record: Record) -> tuple[list[Chart], list[tuple[str, str]]]:
    """The learning curves and their legend.

    Args:
        record: the run.

    Returns:
        Charts that have data, and (arm, name) of all arms drawn.
    """
    wanted: list[tuple[str, str, list[Curve], Written, Callable[[float], str]]] = [
        ("Test accuracy", "", record.evaluation_curves("accuracy"), units.accuracy_text, _percent),
        ("Test loss", "", record.evaluation_curves("loss"), units.loss_text, _plain),
        ("Training loss", "mean of each round", record.training_curves(), units.loss_text, _plain),
    ]
    wanted = [chart for chart in wanted if chart[2]]
    charts: list[Chart] = []
    for title, note, drawn, text, axis_text in wanted:
        alone = not charts and len(wanted) % 2 == 1
        svg = line_chart(drawn, NAMES, title, text, axis_text)
        wide = line_chart(drawn, NAMES, title, text, axis_text, width=2.15 * WIDTH) if alone else Markup("")
        charts.append(Chart(title=title, note=note, svg=svg, wide=wide, table=curve_table(drawn, NAMES, text)))
    arms = {curve.arm for _, _, drawn, _, _ in wanted for curve in drawn}
    return charts, [(arm, NAMES[arm]) for arm in ARMS if arm in arms]


def curve_table(drawn: Sequence[Curve], names: Mapping[str, str], text: Written) -> Table:
    """The numbers of a chart of curves, for those who don't see it.

    Args:
        drawn: the curves.
        names: what to call each.
        text: how to write a value.

    Returns:
        A row for every round with data, of long runs a selection.
    """
    values = {curve.arm: {point.x: point.mean for point in curve.points} for curve in drawn}
    stops = sorted({at for points in values.values() for at in points})
    shown = thinned(stops, MOST_TABLE_ROWS)
    rows = [("", str(at), [text(points.get(at)) for points in values.values()]) for at in shown]
    notes = [f"{len(shown)} of {len(stops)} rounds."] if len(shown) < len(stops) else []
    return Table(groups=[], headings=[names[arm] for arm in values], rows=rows, notes=notes, first="round")


def traffic(record: Record) -> list[tuple[str, str]]:
    """What went over the wire, and what whole models would have been.

    Args:
        record: the run.

    Returns:
        Headings and values; means over seeds.
    """
    up = record.mean(lambda run: run.total("bytes_up")) or record.metrics.get("bytes_up")
    down = record.mean(lambda run: run.total("bytes_down")) or record.metrics.get("bytes_down")
    if up is None or down is None:
        return []
    found = [("clients to server", units.bytes_text(up)), ("server to clients", units.bytes_text(down))]
    exchanges = record.mean(
        lambda run: sum(len(event.get("clients") or ()) for event in run.rounds("federated").values())
    )
    if exchanges:
        found.append(("per client and round", f"{units.bytes_text((up + down) / exchanges)} both ways"))
        base = (record.start.get("parameters") or {}).get("base")
        size = BYTES_PER_VALUE.get(str(record.start.get("dtype")).removeprefix("torch."))
        if base and size and up + down > 0:
            whole = 2 * exchanges * base * size
            times_as_much = f"{whole / (up + down):,.0f} times as much"
            found.append(("sending whole models instead", f"{units.bytes_text(whole)}, {times_as_much}"))
    return found


def times(record: Record) -> Times | None:
    """Where the time of a run went; means over seeds.

    Args:
        record: the run.

    Returns:
        The breakdown, None before anything was timed.
    """
    parts = [
        ("data", "preparing data", record.mean(lambda run: run.start.get("data_seconds"))),
        ("training", "training on clients", record.mean(lambda run: run.total("train_seconds"))),
        ("aggregation", "aggregation", record.mean(lambda run: run.total("aggregate_seconds"))),
        ("evaluation", "evaluation", record.mean(_evaluation_seconds)),
        ("baselines", "training baselines", record.mean(_baseline_seconds)),
    ]
    known = [(style, name, seconds) for style, name, seconds in parts if seconds]
    if not known:
        return None
    spent = sum(seconds for _, _, seconds in known)
    total = max(spent, _seconds(record) or 0.0)
    if total - spent > 0.005 * total:
        known.append(("other", "loading the model and the rest", total - spent))
    rows = [
        (style, name, units.seconds_text(seconds), f"{100 * seconds / total:.1f} %") for style, name, seconds in known
    ]
    drawn = [(f"time-{style}", seconds, f"{name}: {units.seconds_text(seconds)}") for style, name, seconds in known]
    return Times(chart=stacked_bar(drawn, "where the time went"), rows=rows, total=units.seconds_text(total))


def versions(record: Record) -> list[tuple[str, str]]:
    """The software that the run used.

    Args:
        record: the run.

    Returns:
        Package names and versions.
    """
    found = [("fedloom", str(record.start["fedloom"]))] if record.start.get("fedloom") else []
    return found + [(str(key), str(value)) for key, value in (record.start.get("versions") or {}).items()]


def _test_set_note(record: Record, test_set: str) -> str:
    blocks: list[Any] = [
        result.get(test_set) for run in record.runs for result in run.results.values() if result.get(test_set)
    ]
    examples = next((block["examples"] for block in blocks if block.get("examples")), None)
    count = f" ({units.count_text(examples)} examples)" if examples else ""
    return f"{TEST_SETS[test_set].capitalize()}: {TEST_SET_MEANINGS[test_set]}{count}."


def _seconds(record: Record) -> float | None:
    return record.mean(_run_seconds) or record.metrics.get("seconds")


def _run_seconds(run: Run) -> float | None:
    end = next((event["seconds"] for event in reversed(run.events) if event["event"] == "end"), None)
    if end is not None or not run.events:
        return end
    return float(run.events[-1]["time"] - run.events[0]["time"])


def _evaluation_seconds(run: Run) -> float:
    return sum(event.get("seconds") or 0.0 for event in run.events if event["event"] == "evaluation")


def _baseline_seconds(run: Run) -> float:
    rounds = [event for event in run.events if event["event"] == "baseline_round"]
    return sum(event.get("train_seconds") or 0.0 for event in rounds)


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def _plain(value: float) -> str:
    return f"{value:g}"
