"""What stands in each section of a comparison, as plain values and charts; `comparison.py` puts them on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.axis_rows import Axis, axis_of, interval_row, scale_row
from fedloom.report.comparison_record import Comparison, Entry, Number, paired
from fedloom.report.fairness import ClientScores, Fairness, Group, fairness
from fedloom.report.line_chart import WIDTH, line_chart
from fedloom.report.record import Curve, Point
from fedloom.report.scatter_chart import Dot, scatter_chart
from fedloom.report.sections import Chart, Switch, Written, curve_table
from fedloom.statistics import Interval

# More curves than these are hard to tell apart: the others wait to be switched on.
MOST_SHOWN = 8
LONGEST_HEADING = 16


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the main table: a number, its interval, what to sort by, and whether it says better or worse."""

    text: str
    interval: str = ""
    value: float | str = ""
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant's or baseline's row."""

    style: str
    name: str
    reference: bool
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A row of the chart of scores."""

    style: str
    name: str
    reference: bool
    chart: Markup
    text: str
    interval: str


def measure_name(comparison: Comparison) -> str:
    """What the scores are, in words."""
    where = "on the global test" if comparison.content["test_set"] == "global" else "on the clients' own tests"
    better = "higher" if comparison.content["better"] == "higher" else "lower"
    return f"{comparison.measure.capitalize()} {where}, {better} is better"


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """The few numbers that say what was compared.

    Args:
        comparison: what was compared.

    Returns:
        Headings and values.
    """
    content = comparison.content
    found = [("variants", units.count_text(len(comparison.variants)))]
    if content.get("varied"):
        found.append(("varied", _keys(content["varied"])))
    found.append(("seeds", ", ".join(str(seed) for seed in content["seeds"])))
    cells = content["cells"]
    found.append(("runs", f"{cells['done']} of {cells['planned']}" if not content["finished"] else f"{cells['done']}"))
    seconds = sum(run.get("seconds") or 0.0 for one in comparison.entries for run in one.runs)
    if seconds:
        found.append(("time of all runs", units.seconds_text(seconds)))
    if content.get("tuned"):
        found.append(("tuned", _keys(content["tuned"]["keys"])))
    return found


def main_table(comparison: Comparison) -> tuple[list[str], list[Row]]:
    """Scores, differences and costs of every variant and baseline.

    Args:
        comparison: what was compared.

    Returns:
        Headings and rows, the best variant first, then baselines.
    """
    arms = [
        arm
        for arm in ("local", "centralized")
        if any(comparison.baseline(one, arm) is not None for one in comparison.variants)
    ]
    reference = str(comparison.content["reference"])
    headings = [
        comparison.measure,
        f"against {reference if len(reference) <= LONGEST_HEADING else 'the reference'}",
        *(f"against {arm}" for arm in arms),
        "time",
        "traffic",
    ]
    ranked = comparison.ranked()
    unscored = [one for one in comparison.variants if one.score is None]
    rows = []
    for one in [*ranked, *unscored, *comparison.baselines]:
        differences = [] if one is comparison.reference else [paired_to_reference(comparison, one)]
        cells = [_score(comparison, one)]
        cells += [_difference(comparison, difference) for difference in differences] or [Cell(text="reference")]
        for arm in arms:
            baseline = comparison.baseline(one, arm)
            cells.append(_difference(comparison, paired(one.score, baseline.score) if baseline is not None else None))
        cells.append(_cost(one.seconds, units.seconds_text))
        cells.append(_cost(one.traffic, units.bytes_text))
        rows.append(Row(style=one.style, name=one.label, reference=one is comparison.reference, cells=cells))
    return headings, rows


def paired_to_reference(comparison: Comparison, one: Entry) -> Interval | None:
    """The difference of a variant or baseline to the reference, as the file has it."""
    found = one.difference
    if found is None:
        return None
    count = sum(value is not None for value in found.values)
    return Interval(found.mean, found.low, found.high, count)


def score_chart(comparison: Comparison) -> tuple[list[ScoreRow], Markup, list[tuple[str, str]]]:
    """Every score with its interval on one axis, baselines and base model as lines across.

    Args:
        comparison: what was compared.

    Returns:
        Rows with the best first, the axis, and the legend of the lines.
    """
    lines = [(one.style, one.label, one.score.mean) for one in comparison.baselines if one.score is not None]
    if comparison.base is not None:
        lines.append(("base", "base model", comparison.base.mean))
    ranked = comparison.ranked()
    if not ranked:
        return [], Markup(""), []
    ends = [end for one in ranked if one.score for end in (one.score.low, one.score.mean, one.score.high)]
    # The untuned base is often so far away that nothing else could be told apart: then it stays outside.
    near = [value for style, _, value in lines if style != "base"] or [value for _, _, value in lines]
    axis = axis_of([end for end in [*ends, *near] if end is not None])
    inside = [line for line in lines if axis.levels[0] <= line[2] <= axis.levels[-1]]
    references = [(style, value) for style, _, value in inside]
    rows = [_score_row(comparison, one, axis, references) for one in ranked]
    legend = []
    for line in lines:
        text = f"{line[1]}, {units.score_text(comparison.measure, line[2])}"
        legend.append((line[0], text if line in inside else f"{text} (outside the chart)"))
    return rows, scale_row(axis, _axis_text(comparison)), legend


def switches(comparison: Comparison) -> list[Switch]:
    """The legend of all curves: where there are many, the reference, the best and the baselines are shown at first.

    Args:
        comparison: what was compared.

    Returns:
        One for each variant and baseline.
    """
    order = sorted(comparison.ranked(), key=lambda one: one is not comparison.reference)
    first = order[:MOST_SHOWN] if len(comparison.variants) > MOST_SHOWN else comparison.variants
    return [
        Switch(style=one.style, name=one.label, shown=one.arm != "federated" or one in first)
        for one in comparison.entries
    ]


def curves(comparison: Comparison) -> list[Chart]:
    """The learning curves of all variants and baselines.

    Args:
        comparison: what was compared.

    Returns:
        Charts that have data.
    """
    names = {one.style: one.label for one in comparison.entries}
    trained = {one.style for one in comparison.variants}
    wanted: list[tuple[str, str, Callable[[Entry], tuple[Point, ...]]]] = [
        ("Test accuracy", "accuracy", lambda one: one.curve("accuracy")),
        ("Test loss", "loss", lambda one: one.curve("loss")),
        ("Training loss", "loss", lambda one: one.training()),
    ]
    found = [
        (title, measure, [Curve(arm=one.style, points=points) for one in comparison.entries if (points := pick(one))])
        for title, measure, pick in wanted
    ]
    found = [chart for chart in found if chart[2]]
    charts: list[Chart] = []
    for title, measure, drawn in found:
        text: Written = units.accuracy_text if measure == "accuracy" else units.loss_text
        axis = _axis_text_of(measure)
        svg, wide = line_chart(drawn, names, title, text, axis, trained=trained), Markup("")
        if not charts and len(found) % 2 == 1:
            wide = line_chart(drawn, names, title, text, axis, 2.15 * WIDTH, trained)
        note = "mean of each round" if title == "Training loss" else ""
        charts.append(Chart(title=title, note=note, svg=svg, wide=wide, table=curve_table(drawn, names, text)))
    return charts


def costs(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Scores against bytes and against time.

    Args:
        comparison: what was compared.

    Returns:
        Headings and charts.
    """
    kinds: list[tuple[str, str, Callable[[Entry], Number | None], Written]] = [
        ("traffic", "bytes", lambda one: one.traffic, units.bytes_text),
        ("time", "seconds", lambda one: one.seconds, units.seconds_text),
    ]
    ranks = {one.style: str(place) for place, one in enumerate(comparison.ranked(), 1)}
    many = len(comparison.variants) > MOST_SHOWN
    found = []
    for name, kind, pick, text in kinds:
        dots = [
            Dot(
                style=one.style,
                label=ranks.get(one.style, one.label) if many else one.label,
                cost=cost.mean,
                score=one.score.mean,
                low=one.score.low,
                high=one.score.high,
                tip=f"{_tip(comparison, one)}\n{text(cost.mean)}",
            )
            for one in comparison.entries
            if one.score is not None and (cost := pick(one)) is not None and cost.mean > 0
        ]
        if len(dots) > 1:
            title = f"Score against {name}"
            label = f"{title}: {', '.join(f'{dot.label} {text(dot.cost)}' for dot in dots)}"
            unit, called = units.largest_unit(max(dot.cost for dot in dots), kind)
            axis = f"{name} of a run, {called}"
            found.append((title, scatter_chart(dots, label, axis, unit, _axis_text(comparison))))
    return found


def client_fairness(comparison: Comparison) -> Fairness | None:
    """How evenly clients fare under each variant and baseline.

    Args:
        comparison: what was compared.

    Returns:
        The section, None where no client was scored by itself.
    """
    for measure in ("accuracy", "loss"):
        groups = [
            Group(
                style=one.style,
                name=one.label,
                seeds=[
                    ClientScores(
                        scores={name: scores[measure] for name, scores in clients.items() if measure in scores}
                    )
                    for run in one.runs
                    if (clients := run.get("clients"))
                ],
            )
            for one in comparison.entries
        ]
        found = fairness(groups, measure)
        if found is not None:
            return found
    return None


def notes(comparison: Comparison) -> list[str]:
    """What the scores' intervals are, and are not."""
    if comparison.seeds < 2:
        return ["One seed: there are no intervals, and nothing tells a difference from chance."]
    found = [
        f"Mean and 95 % interval (Student's t over {comparison.seeds} seeds). Differences are paired by seed; "
        "coloured and bold where their interval does not hold zero.",
    ]
    if len(comparison.variants) > 2:
        count = len(comparison.variants)
        found.append(f"Intervals are not widened for {count} variants being compared: the best of many is lucky, too.")
    return found


def settings(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """What each variant and baseline is: colour, label, settings and the folders of its runs."""
    found = []
    for one in comparison.entries:
        values = ", ".join(f"{key} = {value}" for key, value in {**one.settings, **(one.chosen or {})}.items())
        folders = ", ".join(str(run["folder"]) for run in one.runs if run.get("folder"))
        found.append((one.style, one.label, values or "as the recipe", folders))
    return found


def failures(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The runs without a result: what, which seed, why."""
    return [(one.label, f"seed {run['seed']}", str(run["failed"])) for one in comparison.entries for run in one.failed]


def _keys(keys: Sequence[str]) -> Markup:
    """Recipe keys, which may be broken after a dot where a phone is too narrow for them."""
    return Markup(", ").join(Markup(".<wbr>").join(key.split(".")) for key in keys)


def _score_row(comparison: Comparison, one: Entry, axis: Axis, references: Sequence[tuple[str, float]]) -> ScoreRow:
    number = one.score
    assert number is not None
    return ScoreRow(
        style=one.style,
        name=one.label,
        reference=one is comparison.reference,
        chart=interval_row(axis, one.style, number.mean, number.low, number.high, references, _tip(comparison, one)),
        text=units.score_text(comparison.measure, number.mean),
        interval=units.range_text(comparison.measure, number.low, number.high),
    )


def _score(comparison: Comparison, one: Entry) -> Cell:
    if one.score is None:
        return Cell(text="failed" if one.failed else "not yet")
    interval = units.range_text(comparison.measure, one.score.low, one.score.high)
    short_of = sum(value is None for value in one.score.values)
    if short_of:
        interval = f"{interval} ({len(one.score.values) - short_of} of {len(one.score.values)} seeds)".strip()
    return Cell(text=units.score_text(comparison.measure, one.score.mean), interval=interval, value=one.score.mean)


def _difference(comparison: Comparison, difference: Interval | None) -> Cell:
    if difference is None:
        return Cell(text=units.MISSING)
    verdict = ""
    if difference.holds_zero is False:
        verdict = "better" if comparison.gain(difference.mean) > 0 else "worse"
    return Cell(
        text=units.difference_text(comparison.measure, difference.mean),
        interval=units.range_text(comparison.measure, difference.low, difference.high, signed=True),
        value=difference.mean,
        verdict=verdict,
    )


def _cost(number: Number | None, text: Written) -> Cell:
    # Without its interval: how long a machine took is no property of the variant.
    return Cell(text=text(number.mean), value=number.mean) if number is not None else Cell(text=units.MISSING)


def _tip(comparison: Comparison, one: Entry) -> str:
    assert one.score is not None
    text = f"{one.label}: {units.score_text(comparison.measure, one.score.mean)}"
    interval = units.range_text(comparison.measure, one.score.low, one.score.high)
    return f"{text}\n95 % interval {interval}" if interval else text


def _axis_text(comparison: Comparison) -> Callable[[float], str]:
    return _axis_text_of(comparison.measure)


def _axis_text_of(measure: str) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:g} %") if measure == "accuracy" else (lambda value: f"{value:g}")
