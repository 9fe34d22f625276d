"""What a run cost: bytes by round, by client and in total, and where its time went, waiting included."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from markupsafe import Markup

from fedloom.report import units
from fedloom.report.bar_charts import stacked_bar
from fedloom.report.events import Event
from fedloom.report.line_chart import line_chart
from fedloom.report.record import Curve, Record, Run
from fedloom.report.sections import Table, curve_table, run_seconds

BYTES_PER_VALUE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
DIRECTIONS = {"up": "clients to server", "down": "server to clients"}
MOST_PROCESSES = 16


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What went over the wire: totals, and a chart by round with its numbers."""

    pairs: list[tuple[str, str]]
    chart: Markup
    table: Table | None


@dataclass(frozen=True, kw_only=True)
class Times:
    """Where the time went; `processes` where several shared the work, `simulated` where the recipe has a clock."""

    chart: Markup
    rows: list[tuple[str, str, str, str]]  # style, name, duration, share
    total: str
    processes: Table | None
    simulated: list[tuple[str, str]]


def traffic(record: Record) -> Traffic | None:
    """What went over the wire, and what whole models would have been.

    Args:
        record: the run.

    Returns:
        Means over seeds; None before anything was sent.
    """
    up = record.mean(lambda run: run.total("bytes_up")) or record.metrics.get("bytes_up")
    down = record.mean(lambda run: run.total("bytes_down")) or record.metrics.get("bytes_down")
    if up is None or down is None:
        return None
    found = [("clients to server", units.bytes_text(up)), ("server to clients", units.bytes_text(down))]
    exchanges = record.mean(
        lambda run: sum(len(event.get("clients") or ()) for event in run.rounds("federated").values())
    )
    if exchanges:
        mean = f"{units.bytes_text(up / exchanges)} up, {units.bytes_text(down / exchanges)} down"
        found.append(("a client in a round, on average", mean))
        base = (record.start.get("parameters") or {}).get("base")
        size = BYTES_PER_VALUE.get(str(record.start.get("dtype")).removeprefix("torch."))
        if base and size and up + down > 0:
            whole = 2 * exchanges * base * size
            times_as_much = f"{whole / (up + down):,.0f} times as much"
            found.append(("sending whole models instead", f"{units.bytes_text(whole)}, {times_as_much}"))
    drawn = [
        Curve(arm=way, points=points)
        for way in DIRECTIONS
        if (points := record.by_round(lambda event, way=way: event.get(f"bytes_{way}")))  # type: ignore[misc]
    ]
    chart = line_chart(drawn, DIRECTIONS, "bytes", units.bytes_text, units.bytes_text, trained=DIRECTIONS, zero=True)
    table = curve_table(drawn, DIRECTIONS, units.bytes_text) if drawn else None
    return Traffic(pairs=found, chart=chart, table=table)


def times(record: Record) -> Times | None:
    """Where the time of a run went; means over seeds.

    Args:
        record: the run.

    Returns:
        The breakdown, None before anything was timed.
    """
    waiting = record.mean(lambda run: _waiting(_training_rounds(run))) or 0.0
    of_federation = record.mean(lambda run: _waiting(list(run.rounds("federated").values()))) or 0.0
    training = record.mean(lambda run: run.total("train_seconds")) or 0.0
    baselines = record.mean(_baseline_seconds) or 0.0
    parts = [
        ("data", "preparing data, loading the model", record.mean(lambda run: run.start.get("data_seconds"))),
        ("training", "computing on clients", training - of_federation),
        ("baselines", "computing baselines", baselines - (waiting - of_federation)),
        ("waiting", "waiting for the slowest process", waiting),
        ("aggregation", "aggregation", record.mean(lambda run: run.total("aggregate_seconds"))),
        ("evaluation", "evaluation", record.mean(_evaluation_seconds)),
    ]
    known = [(style, name, seconds) for style, name, seconds in parts if seconds]
    if not known:
        return None
    spent = sum(seconds for _, _, seconds in known)
    total = max(spent, run_seconds(record) or 0.0)
    if total - spent > 0.005 * total:
        known.append(("other", "the rest", total - spent))
    rows = [
        (style, name, units.seconds_text(seconds), f"{100 * seconds / total:.1f} %") for style, name, seconds in known
    ]
    drawn = [(f"time-{style}", seconds, f"{name}: {units.seconds_text(seconds)}") for style, name, seconds in known]
    return Times(
        chart=stacked_bar(drawn, f"where the time went: {', '.join(f'{name} {share}' for _, name, _, share in rows)}"),
        rows=rows,
        total=units.seconds_text(total),
        processes=_processes(record),
        simulated=_simulated(record),
    )


def _processes(record: Record) -> Table | None:
    """How long each of several processes computed, and waited until the slowest was done."""
    rounds = [event["process_seconds"] for run in record.runs for event in _training_rounds(run) if _shared(event)]
    sizes = {len(seconds) for seconds in rounds}
    # A resumed run may have gone on with another number of processes: then there are no rows to fill.
    if len(sizes) != 1 or sizes.pop() > MOST_PROCESSES:
        return None
    runs = len(record.runs)
    slowest = sum(max(seconds) for seconds in rounds) / runs
    rows = []
    for rank, own in enumerate(zip(*rounds, strict=True)):
        busy = sum(own) / runs
        rows.append(("", f"process {rank}", [units.seconds_text(busy), units.seconds_text(slowest - busy)]))
    note = "In the rounds of all arms. A process waits until the slowest has trained its clients."
    return Table(groups=[], headings=["computing", "waiting"], rows=rows, notes=[note])


def _simulated(record: Record) -> list[tuple[str, str]]:
    """What the recipe's simulated clock says: nobody has waited for it."""
    total = record.mean(lambda run: run.total("simulated_seconds"))
    if not total:
        return []
    rounds = [event for run in record.runs for event in run.rounds("federated").values()]
    found = [("simulated time of all rounds", units.seconds_text(total))]
    known = [event for event in rounds if event.get("simulated_waiting_seconds") is not None]
    if known:
        waiting = statistics.fmean(event["simulated_waiting_seconds"] for event in known)
        lasted = statistics.fmean(event["simulated_seconds"] for event in known)
        share = f" of a round's {units.seconds_text(lasted)} ({100 * waiting / lasted:.0f} %)" if lasted else ""
        name = "simulated waiting of a client for the end of a round"
        found.append((name, f"{units.seconds_text(waiting)}{share}"))
    missing = sum(len(event.get("missing") or ()) for event in rounds)
    drawn = missing + sum(len(event.get("clients") or ()) for event in rounds)
    if missing:
        found.append(("drawn clients that did not count", f"{missing:,} of {drawn:,}"))
    stale = [number for event in rounds for number in (event.get("staleness") or {}).values()]
    if stale:
        found.append(("staleness of an update, on average", f"{statistics.fmean(stale):.1f} versions"))
    return found


def _training_rounds(run: Run) -> list[Event]:
    arms = ("federated", "fine_tuned", "local", "centralized")
    return [event for arm in arms for event in run.rounds(arm).values()]


def _shared(event: Event) -> bool:
    return len(event.get("process_seconds") or ()) > 1


def _waiting(rounds: list[Event]) -> float:
    """What a process waited, mean over processes: the slowest one's seconds less the mean, summed over rounds."""
    seconds = [event["process_seconds"] for event in rounds if _shared(event)]
    return float(sum(max(own) - statistics.fmean(own) for own in seconds))


def _evaluation_seconds(run: Run) -> float:
    return sum(event.get("seconds") or 0.0 for event in run.events if event["event"] in {"evaluation", "suites"})


def _baseline_seconds(run: Run) -> float:
    rounds = [event for event in run.events if event["event"] == "baseline_round"]
    return sum(event.get("train_seconds") or 0.0 for event in rounds)
