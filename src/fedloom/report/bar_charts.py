"""Bars as inline SVG: per arm, per client, and shares of a whole.

Lengths are percentages, so a bar is as wide as its surroundings on any screen. What it shows on hover is in
`data-tip` attributes, which a few lines of script on the page turn into a tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fedloom.report.line_chart import short


def bar(arm: str, share: float, *, low: float | None = None, high: float | None = None, tip: str) -> Markup:
    """One horizontal bar, with a whisker from the lowest to the highest seed if given.

    Args:
        arm: whose colour it has.
        share: its length as a share of the width, 0 to 1.
        low: where the whisker begins.
        high: where the whisker ends.
        tip: what to show on hover.

    Returns:
        An SVG element as wide as its surroundings.
    """
    whisker = Markup("")
    if low is not None and high is not None and high - low > 0.002:
        whisker = Markup('<line class="whisker" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(
            short(100 * low), short(100 * high)
        )
    return Markup(
        '<svg class="bar" data-tip="{}" aria-hidden="true">'
        '<rect class="track" width="100%" height="100%" rx="3"/>'
        '<rect class="fill {}" width="{}%" height="100%" rx="3"/>{}</svg>'
    ).format(tip, arm, short(100 * min(1.0, max(0.0, share))), whisker)


def stacked_bar(parts: Sequence[tuple[str, float, str]], label: str) -> Markup:
    """Shares of a whole in one bar.

    Args:
        parts: style class, amount and hover text of each part.
        label: a description for screen readers.

    Returns:
        An SVG element as wide as its surroundings.
    """
    whole = sum(amount for _, amount, _ in parts) or 1.0
    drawn, left = [], 0.0
    for style, amount, tip in parts:
        share = 100 * amount / whole
        drawn.append(
            Markup('<rect class="{}" data-tip="{}" x="{}%" width="{}%" height="100%"/>').format(
                style, tip, short(left), short(share)
            )
        )
        left += share
    page = Markup('<svg class="stack" role="img" aria-label="{}">{}</svg>')
    return page.format(label, Markup("").join(drawn))


def gain_columns(gains: Sequence[tuple[str, float]], label: str) -> Markup:
    """One thin column per client, up for a gain and down for a loss: for more clients than rows would fit.

    Args:
        gains: hover text and gain of each client, in the order to draw.
        label: a description for screen readers.

    Returns:
        An SVG element as wide as its surroundings; the caller writes the range beside it.
    """
    top, bottom = max(0.0, *(gain for _, gain in gains)), min(0.0, *(gain for _, gain in gains))
    span = (top - bottom) or 1.0
    zero, step = 100 * top / span, 100 / len(gains)
    drawn = [
        Markup('<rect class="{}" data-tip="{}" x="{}%" y="{}%" width="{}%" height="{}%"/>').format(
            "gain" if gain >= 0 else "drop",
            tip,
            short(index * step),
            short(zero - max(0.0, 100 * gain / span)),
            short(step * 0.8),
            short(100 * abs(gain) / span),
        )
        for index, (tip, gain) in enumerate(gains)
    ]
    axis = Markup('<line class="axis" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>').format(short(zero))
    return Markup('<svg class="columns" role="img" aria-label="{}">{}{}</svg>').format(
        label, Markup("").join(drawn), axis
    )
