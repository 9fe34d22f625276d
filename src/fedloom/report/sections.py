"""What stands in each section of the report, as plain values and charts; `html.py` puts them on the page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.bar_charts import bar
from fedloom.report.line_chart import ROUNDS, WIDTH, Axis, line_chart, thinned
from fedloom.report.record import Curve, Record, Run
from fedloom.report.results import ARMS, TEST_SETS, columns, score
from fedloom.statistics import Interval, student_interval

NAMES = {
    "base": "Base model",
    "start": "Start",
    "local": "Each client alone",
    "federated": "Federated",
    "personal": "Federated, personal adapters",
    "fine_tuned": "Federated, then each client alone",
    "centralized": "Pooled data",
}
MEANINGS = {
    "base": "before any fine-tuning",
    "start": "the adapter that all of this run's training started from",
    "local": "trained on one client's data only, mean over clients",
    "federated": "trained together, data stays with its owner",
    "fine_tuned": "every client goes on from the federation's adapter, mean over clients",
    "centralized": "trained on everybody's data in one place",
}
FRESH_HEAD = "before any training: its classification head is random"
MEASURE_NOTES = {
    "macro_f1": "Macro F1: the mean over classes of F1, so that rare classes count as much as frequent ones.",
    "reward_accuracy": "Reward accuracy: share of pairs whose chosen answer has the higher reward (of single answers: "
    "whose reward has the wanted sign); a tie counts one half. The reward margin is the mean difference of rewards.",
    "kl": "KL: mean divergence of the model's next token from the reference's over the tests' answers, nats a token.",
    "matthews": "Matthews: correlation of true and predicted classes, 1 where all are right, 0 for guessing.",
}
TEST_SET_MEANINGS = {
    "own": "every client's own test split, mean over clients",
    "personal": "the same tests, each client with the adapter it keeps for itself",
    "global": "one test set for all",
    "unseen": "clients that took no part in training",
}

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
class Switch:
    """A curve that can be switched on and off."""

    style: str
    name: str
    shown: bool


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
    chosen = [event for run in record.runs for event in run.events if event["event"] == "layers"]
    if chosen:
        # Of several seeds each chooses its own.
        found.append(("shared layers", " · ".join(dict.fromkeys(map(units.layers_text, chosen)))))
    seconds = run_seconds(record)
    if seconds is not None:
        found.append(("time" if record.finished else "time so far", units.seconds_text(seconds)))
    rounds_of = [event for run in record.runs for event in run.rounds("federated").values()]
    if any("examples_share" in event for event in rounds_of):
        # Rounds that say nothing have used everything.
        shares = [event.get("examples_share", 1.0) for event in rounds_of]
        used = f"{units.accuracy_text(shares[0])} at first, {units.accuracy_text(statistics.fmean(shares))} on average"
        found.append(("examples used", used))
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
            _with_interval(measure, getattr(one, measure), over_seeds(record, arm, test_set, measure))
            for (one, measure), (test_set, _) in zip(reached, shown, strict=True)
        ]
        rows.append((arm, NAMES[arm], cells))
    notes = [_test_set_note(record, test_set or "own") for test_set in sets]
    notes += [note for measure, note in MEASURE_NOTES.items() if any(measure == one for _, one in shown)]
    seeds = len(record.seeds)
    notes.append(
        f"Means over {seeds} seeds with their 95 % interval (Student's t), which the thin lines on the bars show, too."
        if seeds > 1
        else "One seed: there are no intervals, and nothing tells a difference from chance."
    )
    return Table(groups=groups, headings=[units.measure_name(measure) for _, measure in shown], rows=rows, notes=notes)


def over_seeds(record: Record, arm: str, test_set: str | None, measure: str) -> Interval | None:
    """A score's 95 % interval over seeds.

    Args:
        record: the run.
        arm: whose score.
        test_set: see `score`.
        measure: one of `MEASURES`.

    Returns:
        The interval, None where seeds are fewer than two or not all of them have the score.
    """
    values = [getattr(score(run.results.get(arm, {}), test_set), measure) for run in record.runs]
    known = [value for value in values if value is not None]
    return student_interval(known) if len(known) == len(values) > 1 else None


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
    intervals = {arm: over_seeds(record, arm, None, measure) for arm in known}
    ends = [end for one in intervals.values() if one is not None for end in (one.mean, one.high) if end is not None]
    highest = max([*(getattr(one, measure) for one in known.values()), *ends], default=1.0)
    whole = 1.0 if measure == "accuracy" else highest or 1.0
    bars = []
    for arm, one in known.items():
        value, around = getattr(one, measure), intervals[arm]
        text = units.score_text(measure, value)
        low, high = (None, None) if around is None else (around.low, around.high)
        bars.append(
            Bar(
                arm=arm,
                name=NAMES[arm],
                meaning=FRESH_HEAD if arm == "base" and record.start.get("fresh_head") else MEANINGS[arm],
                text=text,
                chart=bar(
                    arm,
                    value / whole,
                    low=None if low is None else max(0.0, low / whole),
                    high=None if high is None else min(1.0, high / whole),
                    tip="\n".join([f"{NAMES[arm]}: {text}", *_interval_lines(measure, around)]),
                ),
            )
        )
    shared = any(result.get("global") for result in record.results.values())
    where = "on the global test" if shared else "on the clients' own tests"
    return (f"Accuracy {where}" if measure == "accuracy" else f"Loss {where}, lower is better"), bars


def curves(record: Record) -> tuple[list[Chart], list[Switch]]:
    """The learning curves and their legend.

    Args:
        record: the run.

    Returns:
        Charts that have data, and the switches of all arms drawn.
    """
    wanted: list[tuple[str, str, list[Curve], Written, Callable[[float], str]]] = [
        ("Test accuracy", "", record.evaluation_curves("accuracy"), units.accuracy_text, _percent),
        ("Reward accuracy", "", record.evaluation_curves("reward_accuracy"), units.accuracy_text, _percent),
        ("Reward margin", "", record.evaluation_curves("reward_margin"), units.loss_text, _plain),
        ("KL to the reference", "nats a token", record.evaluation_curves("kl"), units.loss_text, _plain),
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
    return charts, [Switch(style=arm, name=NAMES[arm], shown=True) for arm in ARMS if arm in arms]


def curve_table(drawn: Sequence[Curve], names: Mapping[str, str], text: Written, over: Axis = ROUNDS) -> Table:
    """The numbers of a chart of curves, for those who don't see it.

    Args:
        drawn: the curves.
        names: what to call each.
        text: how to write a value.
        over: what they are drawn over.

    Returns:
        A row for every round with data, of long runs a selection.
    """
    values = {curve.arm: {point.x: point.mean for point in curve.points} for curve in drawn}
    stops = sorted({at for points in values.values() for at in points})
    shown = thinned(stops, MOST_TABLE_ROWS)
    rows = [("", over.cell(at), [text(points.get(at)) for points in values.values()]) for at in shown]
    notes = [f"{len(shown)} of {len(stops)} rounds."] if len(shown) < len(stops) else []
    return Table(groups=[], headings=[names[arm] for arm in values], rows=rows, notes=notes, first=over.first)


def repeat_command(record: Record) -> str:
    """The command that does the same again, started in the run's folder."""
    where = f"seed-{record.seeds[0]}/recipe.yaml" if record.seeds else "recipe.yaml"
    seeds = f" --seeds {len(record.seeds)}" if len(record.seeds) > 1 else ""
    return f"fedloom run {where} --out again{seeds}"


def versions(record: Record) -> list[tuple[str, str]]:
    """The software that the run used.

    Args:
        record: the run.

    Returns:
        Package names and versions.
    """
    found = [("fedloom", str(record.start["fedloom"]))] if record.start.get("fedloom") else []
    return found + [(str(key), str(value)) for key, value in (record.start.get("versions") or {}).items()]


def _with_interval(measure: str, value: float | None, interval: Interval | None) -> str:
    text = units.score_text(measure, value)
    if interval is None:
        return text
    reach = units.range_text(measure, interval.low, interval.high)
    return Markup("{}<small>{}</small>").format(text, reach)


def _interval_lines(measure: str, interval: Interval | None) -> list[str]:
    if interval is None:
        return []
    return [f"95 % interval {units.range_text(measure, interval.low, interval.high)}"]


def _test_set_note(record: Record, test_set: str) -> str:
    blocks: list[Any] = [
        result.get(test_set) for run in record.runs for result in run.results.values() if result.get(test_set)
    ]
    examples = next((block["examples"] for block in blocks if block.get("examples")), None)
    count = f" ({units.count_text(examples)} examples)" if examples else ""
    return f"{TEST_SETS[test_set].capitalize()}: {TEST_SET_MEANINGS[test_set]}{count}."


def run_seconds(record: Record) -> float | None:
    """How long a run took, or has taken so far; mean over seeds."""
    return record.mean(_run_seconds) or record.metrics.get("seconds")


def _run_seconds(run: Run) -> float | None:
    end = next((event["seconds"] for event in reversed(run.events) if event["event"] == "end"), None)
    if end is not None or not run.events:
        return end
    return float(run.events[-1]["time"] - run.events[0]["time"])


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def _plain(value: float) -> str:
    return f"{value:g}"
