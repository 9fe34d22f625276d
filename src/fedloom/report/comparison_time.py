"""The curves of a comparison over simulated time, of variants whose runs have a simulated clock."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.comparison_record import Comparison, Entry
from fedloom.report.line_chart import line_chart, simulated_axis
from fedloom.report.record import Curve, Point, over_time
from fedloom.report.sections import Chart, Written, curve_table


def time_curves(comparison: Comparison) -> list[Chart]:
    """Test and training losses, and accuracies, against simulated time.

    Args:
        comparison: what was compared.

    Returns:
        Charts that have data; none where nothing has a simulated clock.
    """
    clocks = {one.style: seeds for one in comparison.variants if (seeds := one.simulated()) and all(seeds)}
    if not clocks:
        return []
    axis = simulated_axis(max(max(seed.values()) for seeds in clocks.values() for seed in seeds))
    names = {one.style: one.label for one in comparison.variants}
    wanted: list[tuple[str, Callable[[Entry], tuple[Point, ...]], Written, Callable[[float], str]]] = [
        ("Test accuracy", lambda one: one.curve("accuracy"), units.accuracy_text, lambda value: f"{100 * value:g} %"),
        ("Test loss", lambda one: one.curve("loss"), units.loss_text, lambda value: f"{value:g}"),
        ("Training loss", lambda one: one.training(), units.loss_text, lambda value: f"{value:g}"),
    ]
    charts = []
    for title, pick, text, axis_text in wanted:
        drawn = [
            Curve(arm=one.style, points=points)
            for one in comparison.variants
            if one.style in clocks and (points := over_time(pick(one), clocks[one.style]))
        ]
        if drawn:
            measure = f"{title}, simulated clock"
            svg = line_chart(drawn, names, measure, text, axis_text, trained=clocks, over=axis)
            table = curve_table(drawn, names, text, axis)
            charts.append(Chart(title=title, note="over simulated time", svg=svg, wide=Markup(""), table=table))
    return charts
