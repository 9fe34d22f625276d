"""Rows on one horizontal axis as inline SVG: scores with their intervals, and how clients' scores are distributed.

Every row is a drawing of its own, as wide as its surroundings, so that names and numbers beside it are ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedloom.report.line_chart import Formatter, short, ticks

MOST_CLIENT_DOTS = 60


@dataclass(frozen=True)
class Axis:
    """A horizontal axis that all rows of a chart share.

    Args:
        levels: where its grid lines are, from its beginning to its end.
    """

    levels: tuple[float, ...]

    def place(self, value: float) -> str:
        """Where a value is, in per cent of the width, as SVG writes it."""
        share = (value - self.levels[0]) / (self.levels[-1] - self.levels[0])
        return short(100 * min(1.0, max(0.0, share)))


def axis_of(values: Iterable[float], wanted: int = 5) -> Axis:
    """An axis that covers all values.

    Args:
        values: at least one.
        wanted: about how many grid lines.

    Returns:
        The axis.
    """
    known = list(values)
    return Axis(tuple(ticks(min(known), max(known), wanted)))


def scale_row(axis: Axis, text: Formatter) -> Markup:
    """The numbers along an axis.

    Args:
        axis: the axis.
        text: how to write a value.

    Returns:
        An SVG element.
    """
    last = len(axis.levels) - 1
    parts = [
        Markup('<text class="tick" x="{}%" y="60%" text-anchor="{}">{}</text>').format(
            axis.place(value), "start" if index == 0 else "end" if index == last else "middle", text(value)
        )
        for index, value in enumerate(axis.levels)
    ]
    return Markup('<svg class="row" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


def interval_row(
    axis: Axis,
    style: str,
    mean: float,
    low: float | None,
    high: float | None,
    references: Sequence[tuple[str, float]],
    tip: str,
) -> Markup:
    """A score as a dot, with its interval where there is one.

    Args:
        axis: of all rows.
        style: whose colour it has.
        mean: the score.
        low: where its interval begins.
        high: where it ends.
        references: style and value of what is drawn across all rows.
        tip: what to show on hover.

    Returns:
        An SVG element.
    """
    parts = [
        _grid(axis),
        *(
            Markup('<line class="reference {}" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>').format(one, x=axis.place(value))
            for one, value in references
        ),
    ]
    if low is not None and high is not None:
        parts.append(
            Markup('<line class="reach {}" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(
                style, axis.place(low), axis.place(high)
            )
        )
    parts.append(Markup('<circle class="dot {}" cx="{}%" cy="50%" r="6"/>').format(style, axis.place(mean)))
    return _row(parts, tip)


def distribution_row(
    axis: Axis, style: str, quantiles: Mapping[str, float], singles: Sequence[tuple[str, float]], tip: str
) -> Markup:
    """How clients' scores are distributed: all of them, the middle 80 % and the middle half, and the median.

    Args:
        axis: of all rows.
        style: whose colour it has.
        quantiles: min, tenth, quarter, median, three_quarters, nine_tenths, max.
        singles: name and score of every client, drawn as dots where there are few.
        tip: what to show on hover.

    Returns:
        An SVG element; the same picture for four clients and for a hundred thousand.
    """
    at = {name: axis.place(value) for name, value in quantiles.items()}
    parts = [
        _grid(axis),
        Markup('<line class="reach {}" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(style, at["min"], at["max"]),
    ]
    for name, begin, end in (("deciles", "tenth", "nine_tenths"), ("quarters", "quarter", "three_quarters")):
        width = short(float(at[end]) - float(at[begin]))
        parts.append(
            Markup('<rect class="{} {}" x="{}%" width="{}%" y="15%" height="70%" rx="2"/>').format(
                name, style, at[begin], width
            )
        )
    if len(singles) <= MOST_CLIENT_DOTS:
        parts += [
            Markup('<circle class="client" data-tip="{}" cx="{}%" cy="50%" r="2.6"/>').format(name, axis.place(value))
            for name, value in singles
        ]
    parts.append(Markup('<line class="median" x1="{x}%" x2="{x}%" y1="8%" y2="92%"/>').format(x=at["median"]))
    return _row(parts, tip)


def _grid(axis: Axis) -> Markup:
    return Markup("").join(
        Markup('<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>').format(x=axis.place(value))
        for value in axis.levels
    )


def _row(parts: Sequence[Markup], tip: str) -> Markup:
    return Markup('<svg class="row" data-tip="{}" aria-hidden="true">{}</svg>').format(tip, Markup("").join(parts))
