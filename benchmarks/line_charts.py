"""Line charts of the studies as SVG: something against seconds, each line with its name where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.report.line_chart import short, ticks

WIDTH = 760.0
LEFT, BOTTOM = 56.0, 44.0
LINE_OF_TEXT = 15.0


@dataclass(frozen=True)
class Line:
    """One line.

    Args:
        title: stands where it ends.
        colour: of line and title.
        points: seconds and value of each.
    """

    title: str
    colour: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        lines: at least one.
        across: what the seconds are.
        height: of the chart.
        right: room for the lines' titles.
        top: room above, for a heading.
        heading: what the values are; empty: nothing is written.
        unit: after the numbers of the upright axis.
    """

    lines: Sequence[Line]
    across: str
    height: float
    right: float
    top: float = 16.0
    heading: str = ""
    unit: str = ""


def picture(charts: Sequence[Chart], label: str) -> str:
    """Charts one below the other.

    Args:
        charts: what to draw.
        label: what they show, for those who can't see it.

    Returns:
        An SVG file's text.
    """
    size = f"{short(WIDTH)} {short(sum(chart.height for chart in charts))}"
    parts = [f'<rect width="{short(WIDTH)}" height="{size.split()[1]}" fill="#ffffff"/>']
    above = 0.0
    for chart in charts:
        parts += [f'<g transform="translate(0 {short(above)})">', *_drawn(chart), "</g>"]
        above += chart.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" aria-label="{label}" '
        'font-family="system-ui, sans-serif" font-size="12">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _drawn(chart: Chart) -> list[str]:
    times = ticks(0.0, max(line.points[-1][0] for line in chart.lines))
    values = [value for line in chart.lines for _, value in line.points]
    levels = ticks(min(values), max(values))
    right, floor = WIDTH - chart.right, chart.height - BOTTOM

    def at(seconds: float, value: float) -> tuple[str, float]:
        above = (floor - chart.top) * (value - levels[0]) / (levels[-1] - levels[0])
        return short(LEFT + (right - LEFT) * seconds / times[-1]), floor - above

    parts = [_text(LEFT, 16.0, chart.heading, "#1d2733")] if chart.heading else []
    for level in levels:
        y = at(0.0, level)[1]
        parts.append(f'<path d="M{short(LEFT)} {short(y)}H{short(right)}" stroke="#e3e7ec"/>')
        parts.append(_text(LEFT - 8, y, f"{level:g}{chart.unit}", "#5d6875", "end", 4))
    parts += [_text(at(time, levels[0])[0], floor + 18, f"{time:g}", "#5d6875", "middle") for time in times]
    parts.append(_text((LEFT + right) / 2, chart.height - 8, chart.across, "#5d6875", "middle"))
    free = -math.inf
    for line in sorted(chart.lines, key=lambda one: at(*one.points[-1])[1]):
        places = [at(*point) for point in line.points]
        path = "L".join(f"{x} {short(y)}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        x, y = places[-1]
        parts.append(f'<circle cx="{x}" cy="{short(y)}" r="3" fill="{line.colour}"/>')
        # Names stand one below the other where lines end close together.
        free = max(y, free + LINE_OF_TEXT)
        parts.append(_text(right + 12, free, line.title, line.colour, down=4))
    return parts


def _text(x: float | str, y: float, text: str, colour: str, anchor: str = "start", down: int = 0) -> str:
    x = x if isinstance(x, str) else short(x)
    return f'<text x="{x}" y="{short(y)}" dy="{down}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
