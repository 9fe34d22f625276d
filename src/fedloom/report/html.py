"""The report of a run: one HTML file that needs nothing else, to open offline, keep and send to others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fedloom.report import breakdowns, costs, sections
from fedloom.report.cross import cross_table
from fedloom.report.fairness import HEADINGS
from fedloom.report.page import ARM_SERIES, Series, render_page, write_page
from fedloom.report.record import Record, read_record
from fedloom.report.simulated import simulated
from fedloom.report.suites import suites
from fedloom.report.summary import summary_sentence
from fedloom.report.units import stop_text

REPORT = "report.html"
TRAFFIC_SERIES = (Series("up", "#1787a6", "#4cc4e6"), Series("down", "#8a4fc4", "#b98ae8"))


def write_report(run_dir: Path) -> Path:
    """Write `report.html` for a run, finished or still going, or for a directory of several seeds.

    Args:
        run_dir: the run directory.

    Returns:
        The path of the report.

    Raises:
        ValueError: if this is no run directory.
    """
    return write_page(Path(run_dir) / REPORT, render(read_record(Path(run_dir))))


def render(record: Record) -> str:
    """The page for a record.

    Args:
        record: what `read_record` found.

    Returns:
        A complete HTML document.
    """
    charts, switches = sections.curves(record)
    bars_title, bars = sections.arm_bars(record)
    return render_page(
        "report.html.jinja",
        [*ARM_SERIES.values(), *TRAFFIC_SERIES],
        kind="report",
        name=record.name,
        began=_began(record),
        running=_running(record),
        ended=_ended(record),
        summary=summary_sentence(
            record.results,
            [run.results for run in record.runs] if record.seeds else (),
            bool(record.start.get("fresh_head")),
        ),
        facts=sections.facts(record),
        bars_title=bars_title,
        bars=bars,
        table=sections.score_table(record),
        charts=charts,
        switches=switches,
        band=len(record.seeds) > 1,
        suites=suites(record),
        simulated=simulated(record),
        fairness=breakdowns.client_fairness(record),
        fairness_headings=HEADINGS,
        extremes=breakdowns.extremes(record),
        clients=breakdowns.clients(record),
        categories=breakdowns.category_table(record),
        cross=cross_table(record),
        seeds=breakdowns.seed_table(record),
        traffic=costs.traffic(record),
        times=costs.times(record),
        command=sections.repeat_command(record) if record.recipe else "",
        recipe=record.recipe,
        versions=sections.versions(record),
    )


def _running(record: Record) -> str:
    if record.finished:
        return ""
    planned = f" of {record.rounds_planned}" if record.rounds_planned else ""
    return f"Not finished: {record.rounds_done}{planned} rounds done"


def _ended(record: Record) -> str:
    """Which rule of federation.stop ended the rounds early, of every seed that one has ended."""
    said = []
    for place, run in enumerate(record.runs):
        stop = next((event for event in run.events if event["event"] == "stop"), None)
        if stop is not None:
            seed = f"Seed {record.seeds[place]}: " if record.seeds else ""
            said.append(f"{seed}{stop_text(stop)}.")
    return " ".join(said)


def _began(record: Record) -> str:
    time = record.start.get("time")
    if time is None:
        return ""
    moment = datetime.fromtimestamp(time, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
