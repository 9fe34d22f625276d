"""The report of a run: one HTML file that needs nothing else, to open offline, keep and send to others."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fedloom.report import breakdowns, sections
from fedloom.report.cross import cross_table
from fedloom.report.record import Record, read_record
from fedloom.report.summary import summary_sentence

REPORT = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` for a run, finished or still going, or for a directory of several seeds.

    Args:
        run_dir: the run directory.

    Returns:
        The path of the report.

    Raises:
        ValueError: if this is no run directory.
    """
    target = Path(run_dir) / REPORT
    page = render(read_record(Path(run_dir)))
    draft = target.with_name(f"{REPORT}.tmp")
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, target)  # a reader never sees half a report
    return target


def render(record: Record) -> str:
    """The page for a record.

    Args:
        record: what `read_record` found.

    Returns:
        A complete HTML document.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("fedloom.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    charts, legend = sections.curves(record)
    bars_title, bars = sections.arm_bars(record)
    return environment.from_string(template).render(
        name=record.name,
        began=_began(record),
        finished=record.finished,
        rounds_done=record.rounds_done,
        rounds_planned=record.rounds_planned,
        summary=summary_sentence(record.results, len(record.seeds)),
        facts=sections.facts(record),
        bars_title=bars_title,
        bars=bars,
        table=sections.score_table(record),
        charts=charts,
        legend=legend,
        band=len(record.seeds) > 1,
        clients=breakdowns.clients(record),
        spread=breakdowns.spread_table(record),
        categories=breakdowns.category_table(record),
        cross=cross_table(record),
        seeds=breakdowns.seed_table(record),
        traffic=sections.traffic(record),
        times=sections.times(record),
        recipe=record.recipe,
        versions=sections.versions(record),
    )


def _began(record: Record) -> str:
    time = record.start.get("time")
    if time is None:
        return ""
    moment = datetime.fromtimestamp(time, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
