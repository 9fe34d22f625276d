"""How evenly clients are served, side by side: mean, worst decile, Gini coefficient, and a picture of all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from fedloom.report import units
from fedloom.report.axis_rows import Axis, axis_of, distribution_row, scale_row
from fedloom.statistics import QUANTILES, gini, quantiles, worst_decile

HEADINGS = ["mean", "worst decile", "Gini", "lowest", "highest"]


@dataclass(frozen=True, kw_only=True)
class ClientScores:
    """The clients' scores of one seed.

    Args:
        scores: by client, each on its own test; empty where results don't name clients.
        recorded: what results say of all clients: mean, worst_decile and gini; used where no client is named.
        quantiles: of all clients, likewise.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    recorded: Mapping[str, float | None] = field(default_factory=dict)
    quantiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The clients under one arm or variant, seed by seed."""

    style: str
    name: str
    seeds: Sequence[ClientScores]


@dataclass(frozen=True, kw_only=True)
class FairnessRow:
    """One arm or variant; `cells` are texts with what to sort them by."""

    style: str
    name: str
    chart: Markup
    cells: list[tuple[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """The section."""

    measure: str
    rows: list[FairnessRow]
    scale: Markup
    notes: list[str]


def fairness(groups: Sequence[Group], measure: str) -> Fairness | None:
    """Compare how clients fare. Numbers are computed for every seed and then averaged.

    Args:
        groups: arms or variants.
        measure: accuracy or loss, of clients' own tests.

    Returns:
        The section, None where clients were not evaluated.
    """
    spreads = [(group, spread) for group in groups if (spread := _spread(group))]
    if not spreads:
        return None
    axis = axis_of(end for _, spread in spreads for end in (spread["min"], spread["max"]))
    most = max(len(seed.scores) for group, _ in spreads for seed in group.seeds)
    return Fairness(
        measure=measure,
        rows=[_row(group, spread, measure, axis) for group, spread in spreads],
        scale=scale_row(axis, lambda value: f"{100 * value:g} %" if measure == "accuracy" else f"{value:g}"),
        notes=_notes(measure, most, max(len(group.seeds) for group, _ in spreads)),
    )


def _row(group: Group, spread: Mapping[str, float], measure: str, axis: Axis) -> FairnessRow:
    higher = measure == "accuracy"
    mean = _mean(group, "mean", lambda values: float(np.mean(values)))
    worst = _mean(group, "worst_decile", lambda values: worst_decile(values, higher))
    uneven = _mean(group, "gini", gini)
    numbers = [mean, worst, uneven, spread["min"], spread["max"]]
    texts = [
        f"{number:.3f}" if heading == "Gini" and number is not None else units.score_text(measure, number)
        for heading, number in zip(HEADINGS, numbers, strict=True)
    ]
    singles = [
        (f"{name}: {units.score_text(measure, value)}", value)
        for seed in group.seeds
        for name, value in seed.scores.items()
    ]
    tip = f"{group.name}\nhalf of the clients: {units.range_text(measure, spread['quarter'], spread['three_quarters'])}"
    chart = distribution_row(axis, group.style, spread, singles, tip)
    return FairnessRow(style=group.style, name=group.name, chart=chart, cells=list(zip(texts, numbers, strict=True)))


def _spread(group: Group) -> dict[str, float]:
    """Quantiles over the clients of all seeds; of recorded quantiles, the mean over seeds."""
    pooled = [value for seed in group.seeds for value in seed.scores.values()]
    if pooled:
        return quantiles(pooled)
    recorded = [seed.quantiles for seed in group.seeds if seed.quantiles]
    return {name: statistics.fmean(one[name] for one in recorded) for name in QUANTILES} if recorded else {}


def _mean(group: Group, key: str, compute: Callable[[list[float]], float | None]) -> float | None:
    found = [compute(list(seed.scores.values())) if seed.scores else seed.recorded.get(key) for seed in group.seeds]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known else None


def _notes(measure: str, most: int, seeds: int) -> list[str]:
    low = "lowest accuracies" if measure == "accuracy" else "highest losses"
    notes = [
        f"{measure.capitalize()} of every client on its own test. The line reaches from the lowest to the highest, "
        "the pale box holds the middle 80 %, the darker one the middle half, and the bar is the median.",
        f"Worst decile: mean over the tenth of the clients with the {low} (arXiv:1905.10497). "
        f"Gini: of the clients' {'accuracies' if measure == 'accuracy' else 'losses'}, 0 where all are equal "
        "(arXiv:2507.12983).",
    ]
    if seeds > 1:
        notes.append(f"Numbers are means over {seeds} seeds; the picture holds the clients of all seeds.")
    if most == 0:
        notes.append("There are too many clients to name each: the picture is drawn from recorded quantiles.")
    return notes
