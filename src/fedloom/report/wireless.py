"""The pages of a network's plan: who waits for whom under every scheme, and latency over a varied value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from fedloom.report.bar_charts import bar, stacked_bar
from fedloom.report.line_chart import BOTTOM, HEIGHT, LEFT, Frame, short, ticks
from fedloom.report.page import PALETTE, Series, render_page, write_page
from fedloom.report.units import seconds_text
from fedloom.wireless.allocation import Allocation
from fedloom.wireless.plan import NAMES, OURS, VARIABLES, Plan, Sweep, client_times

MOST_ROWS = 40
_WIDE = 940.0
SERIES = [
    Series(f"s{place}", *PALETTE[place % len(PALETTE)], "" if name == OURS else "6 4")
    for place, name in enumerate(NAMES)
]
STYLES = {name: one.style for name, one in zip(NAMES, SERIES, strict=True)}
PLAIN = "no_pruning_equal_bandwidth"
# Styles of the page's times: receiving, computing, sending.
PARTS = (("data", "receive"), ("training", "compute"), ("aggregation", "send"))


def write_plan(plan: Plan, target: Path) -> Path:
    """Write the page of a plan.

    Args:
        plan: of one round.
        target: the file.

    Returns:
        The file.
    """
    ours, plain = plan.schemes[OURS], plan.schemes[PLAIN]
    longest = max(one.latency_s for one in plan.schemes.values())
    schemes = [
        (
            NAMES[name],
            bar(STYLES[name], one.latency_s / longest, tip=NAMES[name]),
            f"{one.latency_s:.2f} s",
            name == OURS,
        )
        for name, one in sorted(plan.schemes.items(), key=lambda item: item[1].latency_s)
    ]
    shown = range(min(plan.problem.clients, MOST_ROWS))
    span = max(ours.latency_s, plain.latency_s)
    left_out = plan.problem.clients - len(shown)
    page = render_page(
        "wireless-plan.html.jinja",
        SERIES,
        kind="wireless plan",
        name=plan.network.scenario.name,
        began="",
        running="",
        ended="",
        summary=plan_sentence(plan),
        facts=[
            ("Clients", f"{plan.problem.clients:,}"),
            ("Band", f"{plan.problem.bandwidth_hz / 1e6:g} MHz"),
            ("Pruning budget", f"{plan.problem.prune_budget:g}"),
            ("Round", f"{plan.round_number}"),
            ("Simulated latency", seconds_text(ours.latency_s)),
        ],
        schemes=schemes,
        parts=PARTS,
        timelines=[
            (title, seconds_text(one.latency_s), _timelines(plan, one, shown, span))
            for title, one in ((NAMES[OURS], ours), (NAMES[PLAIN], plain))
        ],
        rows=[client_cells(plan, k) for k in shown],
        left_out=left_out,
        headings=CLIENT_HEADINGS,
    )
    return write_page(target, page)


def write_sweep(found: Sweep, target: Path) -> Path:
    """Write the page of a sweep.

    Args:
        found: latencies over one variable.
        target: the file.

    Returns:
        The file.
    """
    page = render_page(
        "wireless-sweep.html.jinja",
        SERIES,
        kind="wireless sweep",
        name=found.scenario.name,
        began="",
        running="",
        ended="",
        summary=f"Mean simulated latency of a round over {VARIABLES[found.variable]}, for every scheme.",
        facts=[("Values", f"{len(found.values)}"), ("Channel draws of each", f"{found.rounds}")],
        switches=[(STYLES[name], title) for name, title in NAMES.items()],
        chart=_sweep_chart(found),
        axis=VARIABLES[found.variable],
        headings=[value_text(found.variable, value) for value in found.values],
        rows=[
            (STYLES[name], NAMES[name], [f"{one:.2f}" for one in latencies], name == OURS)
            for name, latencies in found.latency_s.items()
        ],
    )
    return write_page(target, page)


def plan_sentence(plan: Plan) -> str:
    """What a plan comes to, in a sentence or two."""
    ours, plain = plan.schemes[OURS].latency_s, plan.schemes[PLAIN].latency_s
    said = (
        f"Choosing rates and bandwidths together, the round takes {ours:.2f} simulated seconds: "
        f"{100 * (1 - ours / plain):.0f} % less than without pruning and with equal bandwidth."
    )
    if plan.total is not None:
        said += (
            f" A whole fine-tuning is shortest with a budget of {plan.total.prune_budget:.3f}: "
            f"{plan.total.rounds:.0f} rounds, {seconds_text(plan.total.total_latency_s)}."
        )
    return said


def client_cells(plan: Plan, client: int) -> list[str]:
    """One client's row of the allocation's table: see `CLIENT_HEADINGS`."""
    network, ours = plan.network, plan.schemes[OURS]
    times = client_times(plan.problem, ours)
    distance = "" if network.distance_m is None else f"{network.distance_m[client]:.0f}"
    return [
        network.clients[client],
        network.scenario.devices[network.device[client]].name,
        distance,
        f"{network.examples[client]:.0f}",
        f"{100 * ours.prune_rate[client]:.1f}",
        f"{ours.bandwidth_hz[client] / 1e6:.3f}",
        *(f"{one[client]:.2f}" for one in times),
    ]


CLIENT_HEADINGS = ("client", "device", "metres", "examples", "pruned %", "MHz", "receive s", "compute s", "send s")


def value_text(variable: str, value: float) -> str:
    """A value of a varied key as people read it."""
    return f"{value / 1e6:g} MHz" if variable == "bandwidth" else f"{value:g}"


def _timelines(plan: Plan, allocation: Allocation, shown: Sequence[int], span: float) -> list[tuple[str, Markup]]:
    times = client_times(plan.problem, allocation)
    rows = []
    for k in shown:
        name = plan.network.clients[k]
        parts = [
            (f"time-{style}", float(seconds[k]), f"{name}: {word} {seconds[k]:.2f} s")
            for (style, word), seconds in zip(PARTS, times, strict=True)
        ]
        done = float(allocation.client_latency_s[k])
        waits = f"{name}: waits {max(allocation.latency_s - done, 0.0):.2f} s"
        rows.append((name, stacked_bar([*parts, ("track", max(span - done, 0.0), waits)], waits)))
    return rows


def _sweep_chart(found: Sweep) -> Markup:
    highest = max(max(latencies) for latencies in found.latency_s.values())
    levels = ticks(0.0, highest)
    frame = Frame(width=_WIDE, first=0, last=max(1, len(found.values) - 1), low=levels[0], high=levels[-1])
    parts = [
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
            '<text class="tick" x="{}" y="{y}" dy="0.35em" text-anchor="end">{} s</text>'
        ).format(short(LEFT), short(frame.right), short(LEFT - 7), f"{level:g}", y=short(frame.y(level)))
        for level in levels
    ]
    for place, value in enumerate(found.values):
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                short(frame.x(place)), short(HEIGHT - BOTTOM + 18), value_text(found.variable, value)
            )
        )
    for name, latencies in found.latency_s.items():
        line = list(enumerate(latencies))
        parts.append(Markup('<path class="curve {}" d="{}"/>').format(STYLES[name], frame.path(line)))
        for place, latency in line:
            tip = f"{NAMES[name]}: {latency:.2f} s at {value_text(found.variable, found.values[place])}"
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="4" data-tip="{}"/>').format(
                    STYLES[name], short(frame.x(place)), short(frame.y(latency)), tip
                )
            )
    return Markup('<svg class="lines" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        short(_WIDE), short(HEIGHT), f"latency over {VARIABLES[found.variable]}", Markup("").join(parts)
    )
