"""A run's rounds in a simulated network: who receives, computes, sends and waits when, and losses over that time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.bar_charts import stacked_bar
from fedloom.report.events import Event
from fedloom.report.line_chart import line_chart, simulated_axis, thinned
from fedloom.report.record import Curve, Record, over_time
from fedloom.report.sections import NAMES, Chart, Table, curve_table

MOST_ROUNDS = 4
MOST_CLIENTS = 20
# Field of a client's times, style and word of the legend.
PARTS = (
    ("receive_seconds", "data", "receive"),
    ("compute_seconds", "training", "compute"),
    ("send_seconds", "aggregation", "send"),
    ("wait_seconds", "waiting", "wait"),
)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One round, a row for each client."""

    title: str
    text: str
    rows: list[tuple[str, Markup, str]]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What the section on the simulated clock shows; nothing in it but `measured` has been measured."""

    charts: list[Chart]
    legend: list[tuple[str, str]]
    timelines: list[Timeline]
    clients: Table | None
    measured: list[tuple[str, str]]


def simulated(record: Record) -> Simulated | None:
    """Losses over simulated time, and a few rounds client by client.

    Args:
        record: the run.

    Returns:
        None where the recipe simulates no time.
    """
    seeds = [run.simulated() for run in record.runs]
    if not seeds or not all(seeds):
        return None
    shown = _shown_rounds(record)
    return Simulated(
        charts=_charts(record, seeds),
        legend=[(style, word) for _, style, word in PARTS] if shown else [],
        timelines=_timelines(shown),
        clients=_handed_out(shown),
        measured=_measured(record),
    )


def _charts(record: Record, seeds: Sequence[dict[int, float]]) -> list[Chart]:
    axis = simulated_axis(max(max(seed.values()) for seed in seeds))
    wanted = [
        (
            "Test accuracy",
            record.evaluation_curves("accuracy"),
            units.accuracy_text,
            lambda value: f"{100 * value:g} %",
        ),
        ("Test loss", record.evaluation_curves("loss"), units.loss_text, lambda value: f"{value:g}"),
        ("Training loss", record.training_curves(), units.loss_text, lambda value: f"{value:g}"),
    ]
    charts = []
    for title, curves, text, axis_text in wanted:
        # Baselines exchange nothing and have no clock; the base and a given start are levels.
        drawn = [
            Curve(arm=curve.arm, points=over_time(curve.points, seeds))
            for curve in curves
            if curve.arm in {"base", "start", "federated"}
        ]
        drawn = [curve for curve in drawn if curve.points]
        if any(curve.arm == "federated" for curve in drawn):
            svg = line_chart(drawn, NAMES, f"{title}, simulated clock", text, axis_text, over=axis)
            table = curve_table(drawn, NAMES, text, axis)
            charts.append(Chart(title=title, note="over simulated time", svg=svg, wide=Markup(""), table=table))
    return charts


def _shown_rounds(record: Record) -> list[Event]:
    """A few rounds of the first run, the first and the last among them, that have their clients' times."""
    rounds = [
        event for _, event in sorted(record.runs[0].rounds("federated").items()) if event.get("simulated_clients")
    ]
    return [rounds[place] for place in thinned(range(len(rounds)), MOST_ROUNDS)]


def _timelines(rounds: Sequence[Event]) -> list[Timeline]:
    if not rounds:
        return []
    # One scale for all of them; a client that came too late goes on after the round's end.
    span = max(_total(times) for event in rounds for times in event["simulated_clients"].values())
    found = []
    for event in rounds:
        clients = event["simulated_clients"]
        shown = list(clients)[:MOST_CLIENTS]
        rows = [(name, _row(name, clients[name], span), _shares(clients[name])) for name in shown]
        late = sum(name in (event.get("missing") or {}) for name in clients)
        text = f"{event['simulated_seconds']:.3g} simulated seconds" + (f", {late} too late" if late else "")
        title = f"Round {event['round']}"
        found.append(Timeline(title=title, text=text, rows=rows, left_out=len(clients) - len(shown)))
    return found


def _row(name: str, times: dict[str, float], span: float) -> Markup:
    parts = [
        (f"time-{style}", times.get(field, 0.0), f"{name}: {word} {times.get(field, 0.0):.3g} simulated seconds")
        for field, style, word in PARTS
    ]
    rest = max(0.0, span - _total(times))
    label = ", ".join(f"{word} {times.get(field, 0.0):.3g} s" for field, _, word in PARTS)
    return stacked_bar([*parts, ("track", rest, "")], f"{name}, simulated: {label}")


def _shares(times: dict[str, float]) -> str:
    return f"{times['bandwidth_hz'] / 1e6:.2f} MHz" + (
        f", {100 * times['prune_rate']:.0f} % pruned" if times["prune_rate"] else ""
    )


def _total(times: dict[str, float]) -> float:
    return sum(times.get(field, 0.0) for field, _, _ in PARTS)


def _handed_out(rounds: Sequence[Event]) -> Table | None:
    """The last round that is drawn, in numbers."""
    if not rounds:
        return None
    clients = rounds[-1]["simulated_clients"]
    headings = ["pruned", "MHz", *(f"{word} s" for _, _, word in PARTS)]
    rows = [
        (
            "",
            name,
            [
                f"{100 * times['prune_rate']:.1f} %",
                f"{times['bandwidth_hz'] / 1e6:.3f}",
                *(units.MISSING if field not in times else f"{times[field]:.3g}" for field, _, _ in PARTS),
            ],
        )
        for name, times in clients.items()
    ]
    note = f"Round {rounds[-1]['round']}; all seconds are simulated."
    return Table(groups=[], headings=headings, rows=rows, notes=[note], first="client")


def _measured(record: Record) -> list[tuple[str, str]]:
    """What has really been computed and sent, beside what is simulated."""
    total = record.mean(lambda run: run.total("simulated_seconds"))
    training = record.mean(lambda run: run.total("train_seconds"))
    up, down = (record.mean(lambda run, way=way: run.total(f"bytes_{way}")) for way in ("up", "down"))  # type: ignore[misc]
    return [
        ("simulated: all rounds", units.seconds_text(total)),
        ("measured: computing on clients, on this machine", units.seconds_text(training)),
        ("measured: clients to server", units.bytes_text(up)),
        ("measured: server to clients", units.bytes_text(down)),
    ]
