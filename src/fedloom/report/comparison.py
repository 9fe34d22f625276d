"""The page of a comparison: one HTML file that needs nothing else, to open offline, keep and send to others."""

from __future__ import annotations

from pathlib import Path

from fedloom.report import comparison_sections as sections
from fedloom.report.comparison_record import Comparison, read_comparison
from fedloom.report.comparison_summary import comparison_summary
from fedloom.report.comparison_time import time_curves
from fedloom.report.fairness import HEADINGS
from fedloom.report.page import ARM_SERIES, numbered_series, render_page, write_page
from fedloom.report.tuning_section import tuning, tuning_note

PAGE = "compare.html"


def write_comparison(folder: Path) -> Path:
    """Write `compare.html` for a comparison, finished or still going.

    Args:
        folder: the directory with `compare.json`.

    Returns:
        The path of the page.

    Raises:
        UserError: if there is no comparison that can be read.
    """
    folder = Path(folder)
    return write_page(folder / PAGE, render(read_comparison(folder)))


def render(comparison: Comparison) -> str:
    """The page for a comparison.

    Args:
        comparison: what `read_comparison` found.

    Returns:
        A complete HTML document.
    """
    content = comparison.content
    headings, rows = sections.main_table(comparison)
    score_rows, scale, lines = sections.score_chart(comparison)
    cells = content["cells"]
    return render_page(
        "comparison.html.jinja",
        [*numbered_series([one.arm for one in comparison.entries]), ARM_SERIES["base"]],
        kind="comparison",
        name=content["name"],
        began="",
        ended="",
        running="" if content["finished"] else f"Not finished: {cells['done']} of {cells['planned']} runs done",
        summary=comparison_summary(comparison),
        facts=sections.facts(comparison),
        measure=sections.measure_name(comparison),
        headings=headings,
        rows=rows,
        score_rows=score_rows,
        scale=scale,
        lines=lines,
        notes=sections.notes(comparison),
        switches=sections.switches(comparison),
        many=len(comparison.variants) > sections.MOST_SHOWN,
        charts=[*sections.curves(comparison), *time_curves(comparison)],
        band=comparison.seeds > 1,
        costs=sections.costs(comparison),
        fairness=sections.client_fairness(comparison),
        fairness_headings=HEADINGS,
        tuning=tuning(comparison),
        tuning_note=tuning_note(comparison),
        failures=sections.failures(comparison),
        settings=sections.settings(comparison),
        recipe=content.get("recipe") or "",
        versions=[(str(name), str(version)) for name, version in (content.get("versions") or {}).items()],
    )
