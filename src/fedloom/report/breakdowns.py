"""The finer cuts of a result: by client, by category of example, by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.bar_charts import bar, gain_columns
from fedloom.report.fairness import ClientScores, Fairness, Group, fairness
from fedloom.report.record import Record
from fedloom.report.results import ARMS, score
from fedloom.report.sections import NAMES, Bar, Table, Written

MOST_CLIENT_ROWS = 40
MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number of one client or category over the seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Clients:
    """How every client fares: rows of bars for few clients, thin columns for many."""

    heading: str
    note: str
    rows: list[tuple[str, str, list[Bar]]]  # client, gain, bars
    many: Markup
    highest: str
    lowest: str


def clients(record: Record) -> Clients | None:
    """Every client's own test: the federated adapter against training alone (or the base model).

    Args:
        record: the run.

    Returns:
        The section, None if clients were not evaluated.
    """
    for rival in ("local", "base"):
        for measure in ("accuracy", "loss"):
            ours = _spreads(record, "federated", "clients", measure)
            theirs = _spreads(record, rival, "clients", measure)
            shared = [name for name in ours if name in theirs]
            if shared:
                return _compare_clients(rival, measure, {name: (ours[name], theirs[name]) for name in shared})
    return None


def client_fairness(record: Record) -> Fairness | None:
    """How evenly clients are served by every arm.

    Args:
        record: the run.

    Returns:
        The section, None where clients were not evaluated.
    """
    measure = _measure(record)
    groups = [_group(record, arm, arm, "own", measure) for arm in ARMS if arm in record.results]
    if any(run.results.get("federated", {}).get("personal") for run in record.runs):
        after = 1 + next(place for place, group in enumerate(groups) if group.style == "federated")
        groups.insert(after, _group(record, "federated", "personal", "personal", measure))
    return fairness(groups, measure)


def extremes(record: Record) -> Table | None:
    """The clients that fare worst and best under the federated adapter, where there are too many to look at each.

    Args:
        record: the run.

    Returns:
        The table, None for few clients, or where results don't name them.
    """
    measure = _measure(record)
    ours = _spreads(record, "federated", "clients", measure)
    if len(ours) <= MOST_CLIENT_ROWS:
        return None
    rival = next((arm for arm in ("local", "base") if arm in record.results), None)
    theirs = _spreads(record, rival, "clients", measure) if rival is not None else {}
    better = 1.0 if measure == "accuracy" else -1.0
    order = sorted(ours, key=lambda name: (better * ours[name].mean, name))
    rows = []
    for name in [*order[:MOST_NAMED], *order[-MOST_NAMED:]]:
        cells = [units.score_text(measure, ours[name].mean)]
        if theirs:
            cells.append(units.score_text(measure, theirs[name].mean if name in theirs else None))
        rows.append(("", name, cells))
    headings = [NAMES["federated"], *([NAMES[rival]] if rival is not None and theirs else [])]
    note = f"{measure.capitalize()} on the client's own test: the {MOST_NAMED} worst, then the {MOST_NAMED} best."
    return Table(groups=[], headings=headings, rows=rows, notes=[note])


def _group(record: Record, arm: str, style: str, block: str, measure: str) -> Group:
    seeds = []
    for run in record.runs:
        result = run.results.get(arm) or {}
        of_all = result.get(block) or {}
        clients = (result if block == "own" else of_all).get("clients") or {}
        recorded = {"mean": of_all.get(measure)}
        recorded |= {key: of_all.get(f"{measure}_{key}") for key in ("worst_decile", "gini")}
        scores = {name: one[measure] for name, one in clients.items() if one.get(measure) is not None}
        quantiles = (of_all.get("quantiles") or {}).get(measure) or {}
        seeds.append(ClientScores(scores=scores, recorded=recorded, quantiles=quantiles))
    return Group(style=style, name=NAMES[style], seeds=seeds)


def _measure(record: Record) -> str:
    return "accuracy" if any("accuracy" in result for result in record.results.values()) else "loss"


def category_table(record: Record) -> Table | None:
    """Accuracy by category of example, where the data has categories.

    Args:
        record: the run.

    Returns:
        The table, None without categories.
    """
    by_arm = {arm: _spreads(record, arm, "categories", "accuracy") for arm in ARMS}
    by_arm = {arm: spreads for arm, spreads in by_arm.items() if spreads}
    names = list(dict.fromkeys(name for spreads in by_arm.values() for name in spreads))
    if not names:
        return None
    means = {name: [spreads[name].mean if name in spreads else None for spreads in by_arm.values()] for name in names}
    rows = [("", name, [units.accuracy_text(mean) for mean in means[name]]) for name in names]
    return Table(groups=[], headings=[NAMES[arm] for arm in by_arm], rows=rows, notes=[])


def seed_table(record: Record) -> Table | None:
    """What each seed reached, so that a mean hides nothing.

    Args:
        record: the run.

    Returns:
        The table, None for a single run.
    """
    if not record.seeds:
        return None
    measure = _measure(record)
    text: Written = units.accuracy_text if measure == "accuracy" else units.loss_text
    arms = [arm for arm in ARMS if arm in record.results]
    rows = [
        ("", f"seed {seed}", [text(getattr(score(run.results.get(arm, {})), measure)) for arm in arms])
        for seed, run in zip(record.seeds, record.runs, strict=True)
    ]
    return Table(groups=[], headings=[NAMES[arm] for arm in arms], rows=rows, notes=[f"Test {measure}."])


def _compare_clients(rival: str, measure: str, pairs: Mapping[str, tuple[Spread, Spread]]) -> Clients:
    better = 1.0 if measure == "accuracy" else -1.0
    gains = {name: better * (ours.mean - theirs.mean) for name, (ours, theirs) in pairs.items()}
    order = sorted(gains, key=lambda name: (-gains[name], name))
    highest = max(spread.high for pair in pairs.values() for spread in pair)
    whole = 1.0 if measure == "accuracy" else highest or 1.0
    text: Written = units.accuracy_text if measure == "accuracy" else units.loss_text

    def drawn(arm: str, spread: Spread) -> Bar:
        chart = bar(
            arm,
            spread.mean / whole,
            low=spread.low / whole,
            high=spread.high / whole,
            tip=f"{NAMES[arm]}: {text(spread.mean)}",
        )
        return Bar(arm=arm, name=NAMES[arm], text=text(spread.mean), chart=chart)

    helped = sum(gain > 0 for gain in gains.values())
    than = "training alone" if rival == "local" else "the base model"
    few = len(order) <= MOST_CLIENT_ROWS
    rows = [
        (
            name,
            _gain_text(gains[name], measure),
            [drawn("federated", pairs[name][0]), drawn(rival, pairs[name][1])],
        )
        for name in order
    ]
    tips = [
        ("\n".join([name, *(f"{one.name}: {one.text}" for one in drawn_bars)]), gains[name])
        for name, _, drawn_bars in rows
    ]
    return Clients(
        heading=f"Federated training is better than {than} for {helped} of {len(order)} clients",
        note="Accuracy on each client's own test split."
        if measure == "accuracy"
        else "Loss on each client's own test split, lower is better.",
        rows=rows if few else [],
        many=Markup("") if few else gain_columns(tips, f"gain of every client over {than}"),
        highest=_gain_text(max(0.0, gains[order[0]]), measure),
        lowest=_gain_text(min(0.0, gains[order[-1]]), measure),
    )


def _gain_text(gain: float, measure: str) -> str:
    """A gain with its sign, positive for better; losses as the reduction of the loss."""
    text = f"{100 * gain:+.1f} points" if measure == "accuracy" else f"{-gain:+.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _spreads(record: Record, arm: str, block: str, measure: str) -> dict[str, Spread]:
    """A measure of every client or category, over the seeds that have it."""
    values: dict[str, list[float]] = {}
    for run in record.runs:
        for name, one in (run.results.get(arm, {}).get(block) or {}).items():
            if one.get(measure) is not None:
                values.setdefault(name, []).append(one[measure])
    return {
        name: Spread(mean=statistics.fmean(found), low=min(found), high=max(found)) for name, found in values.items()
    }
