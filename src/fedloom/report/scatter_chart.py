"""Scores against what they cost, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedloom.report.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Formatter, short, ticks

# Where costs differ by more than this factor, the axis is logarithmic.
WIDE = 10.0
LINE_OF_TEXT = 14.0
CHARACTER = 7.0


@dataclass(frozen=True)
class Dot:
    """One thing that cost something and reached something.

    Args:
        style: its colour.
        label: written beside it.
        cost: where it lies on the horizontal axis, positive.
        score: on the vertical one.
        low: where the score's interval begins, None without one.
        high: where it ends.
        tip: what to show on hover.
    """

    style: str
    label: str
    cost: float
    score: float
    low: float | None
    high: float | None
    tip: str


def scatter_chart(dots: Sequence[Dot], label: str, axis: str, unit: float, score_text: Formatter) -> Markup:
    """Dots with intervals; names beside them where they don't cover each other.

    Args:
        dots: at least one.
        label: a description for screen readers.
        axis: what the horizontal axis shows.
        unit: in which its numbers are.
        score_text: how to write a score beside the axis.

    Returns:
        An SVG element.
    """
    costs = [dot.cost / unit for dot in dots]
    logarithmic = max(costs) > WIDE * min(costs)
    marks = _decades(min(costs), max(costs)) if logarithmic else ticks(0.0, max(costs), 4)
    ends = [end for dot in dots for end in (dot.low, dot.score, dot.high) if end is not None]
    levels = ticks(min(ends), max(ends))

    def x(cost: float) -> float:
        low, high, at = (math.log(one) if logarithmic else one for one in (marks[0], marks[-1], cost))
        return LEFT + 8 + (WIDTH - RIGHT - LEFT - 8) * (at - low) / (high - low)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - levels[0]) / (levels[-1] - levels[0])

    parts = [
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
            '<text class="tick" x="{}" y="{y}" dy="0.35em" text-anchor="end">{}</text>'
        ).format(short(LEFT), short(WIDTH - RIGHT), short(LEFT - 7), score_text(level), y=short(y(level)))
        for level in levels
    ]
    parts += [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            short(x(mark)), short(HEIGHT - BOTTOM + 18), "middle", f"{mark:g}"
        )
        for mark in marks
    ]
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            short((LEFT + WIDTH - RIGHT) / 2), short(HEIGHT - 4), axis + (", logarithmic" if logarithmic else "")
        )
    )
    places = [(x(dot.cost / unit), y(dot.score)) for dot in dots]
    for dot, (left, top) in zip(dots, places, strict=True):
        reach = Markup("")
        if dot.low is not None and dot.high is not None:
            reach = Markup('<line class="reach thin" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
                short(y(dot.low)), short(y(dot.high)), x=short(left)
            )
        parts.append(
            Markup('<g class="{}" data-tip="{}">{}<circle class="dot" cx="{}" cy="{}" r="5"/></g>').format(
                dot.style, dot.tip, reach, short(left), short(top)
            )
        )
    parts += [
        Markup('<text class="name-of-dot {}" x="{}" y="{}" dy="0.35em" text-anchor="{}">{}</text>').format(
            dots[index].style, short(left), short(top), anchor, dots[index].label
        )
        for index, left, top, anchor in _names(dots, places)
    ]
    return Markup('<svg class="lines" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        short(WIDTH), short(HEIGHT), label, Markup("").join(parts)
    )


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _names(dots: Sequence[Dot], places: Sequence[tuple[float, float]]) -> list[tuple[int, float, float, str]]:
    """Places of the names that fit: right or left of the dot, above or below it, without covering another name."""
    taken = [(left - 5, left + 5, top - 5, top + 5) for left, top in places]
    found = []
    for index, (left, top) in enumerate(places):
        wide = CHARACTER * len(dots[index].label)
        candidates = (
            (left + 9, top, left + 9, "start"),
            (left - 9 - wide, top, left - 9, "end"),
            (left - wide / 2, top - LINE_OF_TEXT, left, "middle"),
            (left - wide / 2, top + LINE_OF_TEXT, left, "middle"),
        )
        for begin, middle, at, anchor in candidates:
            box = (begin, begin + wide, middle - LINE_OF_TEXT / 2, middle + LINE_OF_TEXT / 2)
            inside = box[0] >= LEFT and box[1] <= WIDTH - RIGHT and box[3] <= HEIGHT - BOTTOM
            free = all(box[1] < one[0] or box[0] > one[1] or box[3] < one[2] or box[2] > one[3] for one in taken)
            if inside and free:
                taken.append(box)
                found.append((index, at, middle, anchor))
                break
    return found
