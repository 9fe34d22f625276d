"""Curves over rounds or simulated time as inline SVG: no library, no scripts, colours from the page's style sheet.

What a chart shows on hover is in `data-tip` attributes, which a few lines of script on the page turn into a
tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from fedloom.report.record import Curve
from fedloom.report.units import largest_unit

WIDTH, HEIGHT = 460.0, 264.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 12.0, 42.0
MOST_MARKERS = 25
MOST_ROUND_TICKS = 8
# Places that answer to a pointer: closer together nobody could tell them apart.
MOST_STOPS = 60

Formatter = Callable[[float], str]
Place = TypeVar("Place", int, float)


def short(number: float) -> str:
    """A coordinate with at most two decimals, to keep the page small."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover a range, for an axis.

    Args:
        low: the lowest value.
        high: the highest value.
        wanted: about how many.

    Returns:
        Evenly spaced values; the first is at or below `low`, the last at or above `high`.
    """
    span = high - low if high > low else max(abs(high), 1.0) * 0.2
    rough = span / max(1, wanted - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def thinned(rounds: Sequence[Place], most: int) -> list[Place]:
    """At most so many rounds or times, evenly chosen, the first and the last among them.

    Args:
        rounds: sorted.
        most: two at least.

    Returns:
        All of them where they are few enough.
    """
    if len(rounds) <= most:
        return list(rounds)
    return [rounds[round(place * (len(rounds) - 1) / (most - 1))] for place in range(most)]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where values lie in the drawing: rounds from `first` to `last`, values from `low` to `high`."""

    width: float
    first: float
    last: float
    low: float
    high: float

    @property
    def right(self) -> float:
        """Where the lines end."""
        return self.width - RIGHT

    def x(self, round_number: float) -> float:
        """The horizontal place of a round."""
        return LEFT + (self.right - LEFT) * (round_number - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        """The vertical place of a value."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)

    def path(self, line: Sequence[tuple[float, float]]) -> str:
        """A path through (round, value) pairs."""
        return "M" + "L".join(f"{short(self.x(at))} {short(self.y(value))}" for at, value in line)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What curves are drawn over.

    Args:
        title: below the numbers.
        by: the same for screen readers.
        reach: from where to where, for the places of all points.
        ticks: where numbers stand from there to there, and how they are written.
        stop: how a place is called where a pointer is.
        first: heading of the places in a table.
        cell: how they are written there.
    """

    title: str
    by: str
    reach: Callable[[Sequence[float]], tuple[float, float]]
    ticks: Callable[[float, float], Sequence[tuple[float, str]]]
    stop: Formatter
    first: str
    cell: Formatter


def _round_reach(places: Sequence[float]) -> tuple[float, float]:
    last = max(1, *places)
    return min(last - 1, *places), last


ROUNDS = Axis(
    title="round",
    by="by round",
    reach=_round_reach,
    ticks=lambda first, last: [(at, str(at)) for at in _round_ticks(int(first), int(last))],
    stop=lambda at: f"round {at:g}",
    first="round",
    cell=lambda at: f"{at:g}",
)


def simulated_axis(longest: float) -> Axis:
    """An axis of simulated time.

    Args:
        longest: seconds that it has to reach.

    Returns:
        In one unit throughout.
    """
    unit, called = largest_unit(longest, "seconds")
    # Rounds of small models end within fractions of a second.
    digits = max(1, 2 - math.floor(math.log10(longest / unit))) if longest > 0 else 1
    return Axis(
        title=f"simulated {called}",
        by="over simulated time",
        reach=lambda _: (0.0, longest or 1.0),
        ticks=lambda _, last: [(at * unit, f"{at:g}") for at in ticks(0.0, last / unit) if at * unit <= last],
        stop=lambda at: f"{at / unit:.{digits}f} simulated {called}",
        first=f"simulated {called}",
        cell=lambda at: f"{at / unit:.{digits}f}",
    )


def line_chart(
    curves: Sequence[Curve],
    names: Mapping[str, str],
    measure: str,
    text: Formatter,
    axis_text: Formatter,
    width: float = WIDTH,
    trained: Container[str] = ("federated",),
    zero: bool = False,
    over: Axis = ROUNDS,
) -> Markup:
    """Curves over rounds, with a band from the lowest to the highest seed where seeds differ.

    Args:
        curves: one per arm; a baseline with a single point is drawn as a level across the chart.
        names: what to call each arm.
        measure: what the vertical axis shows, for screen readers.
        text: how to write a value.
        axis_text: how to write a round value beside the axis.
        width: the width of the drawing, which is scaled as a whole to the space on the page.
        trained: the arms that are no level even where they have a single point.
        zero: whether the vertical axis begins at zero.
        over: the horizontal axis.

    Returns:
        An SVG element; empty if there is nothing to draw.
    """
    if not curves:
        return Markup("")
    points = [point for curve in curves for point in curve.points]
    lowest = 0.0 if zero else min(point.low for point in points)
    levels = ticks(lowest, max(point.high for point in points))
    first, last = over.reach([point.x for point in points])
    frame = Frame(width=width, first=first, last=last, low=levels[0], high=levels[-1])
    parts = [_axes(frame, levels, axis_text, over), *(_curve(frame, curve, trained) for curve in curves)]
    parts.append(_hover(frame, curves, names, text, over))
    ends = (f"{names[curve.arm]} ends at {text(curve.points[-1].mean)}" for curve in curves)
    return Markup('<svg class="lines" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        short(width), short(HEIGHT), f"{measure} {over.by}: {', '.join(ends)}", Markup("").join(parts)
    )


def _axes(frame: Frame, levels: Sequence[float], text: Formatter, over: Axis) -> Markup:
    parts = []
    for value in levels:
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
                '<text class="tick" x="{}" y="{y}" dy="0.35em" text-anchor="end">{}</text>'
            ).format(short(LEFT), short(frame.right), short(LEFT - 7), text(value), y=short(frame.y(value)))
        )
    for place, written in over.ticks(frame.first, frame.last):
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                short(frame.x(place)), short(HEIGHT - BOTTOM + 18), written
            )
        )
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            short((LEFT + frame.right) / 2), short(HEIGHT - 4), over.title
        )
    )
    return Markup("").join(parts)


def _curve(frame: Frame, curve: Curve, trained: Container[str]) -> Markup:
    if len(curve.points) == 1 and curve.arm not in trained:
        return Markup('<line class="level {}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
            curve.arm, short(LEFT), short(frame.right), y=short(frame.y(curve.points[0].mean))
        )
    parts = []
    if any(point.high > point.low for point in curve.points):
        outline = [(point.x, point.high) for point in curve.points]
        outline += [(point.x, point.low) for point in reversed(curve.points)]
        parts.append(Markup('<path class="band {}" d="{}Z"/>').format(curve.arm, frame.path(outline)))
    line = [(point.x, point.mean) for point in curve.points]
    parts.append(Markup('<path class="curve {}" d="{}"/>').format(curve.arm, frame.path(line)))
    if len(line) <= MOST_MARKERS:
        for x, y in line:
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.6"/>').format(
                    curve.arm, short(frame.x(x)), short(frame.y(y))
                )
            )
    return Markup("").join(parts)


def _hover(frame: Frame, curves: Sequence[Curve], names: Mapping[str, str], text: Formatter, over: Axis) -> Markup:
    """Invisible strips, one per round with data, each carrying the values of all arms at that round."""
    moving = [curve for curve in curves if len(curve.points) > 1] or list(curves)
    stops = thinned(sorted({point.x for curve in moving for point in curve.points}), MOST_STOPS)
    parts = []
    for index, stop in enumerate(stops):
        begin = frame.x((stops[index - 1] + stop) / 2) if index else LEFT
        end = frame.x((stops[index + 1] + stop) / 2) if index + 1 < len(stops) else frame.right
        lines = [over.stop(stop)]
        for curve in curves:
            here = [point for point in curve.points if point.x == stop or len(curve.points) == 1]
            lines += [f"{names[curve.arm]}: {text(point.mean)}" for point in here]
        parts.append(
            Markup(
                '<g class="hit" data-tip="{}"><rect x="{}" y="{}" width="{}" height="{}"/>'
                '<line x1="{x}" x2="{x}" y1="{}" y2="{}"/></g>'
            ).format(
                "\n".join(lines),
                short(begin),
                short(TOP),
                short(end - begin),
                short(HEIGHT - TOP - BOTTOM),
                short(TOP),
                short(HEIGHT - BOTTOM),
                x=short(frame.x(stop)),
            )
        )
    return Markup("").join(parts)


def _round_ticks(first: int, last: int) -> list[int]:
    """Whole rounds for the horizontal axis: the first one, then multiples of a round number."""
    step = next(
        factor * 10**power
        for power in range(12)
        for factor in (1, 2, 5)
        if last - first <= MOST_ROUND_TICKS * factor * 10**power
    )
    multiples = range(first - first % step + step, last + 1, step)
    return [first, *(number for number in multiples if number - first >= step / 2)]
