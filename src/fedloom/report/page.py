"""The frame of Fedloom's pages: one HTML file each that needs nothing else, to open offline, keep and send to others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# Colours that stay apart for most eyes, by themselves and against both backgrounds: light and dark page.
PALETTE = (
    ("#1f5fd0", "#6ea0ff"),
    ("#c9541a", "#f58a52"),
    ("#138a6b", "#3cc49c"),
    ("#8a4fc4", "#b98ae8"),
    ("#b8860b", "#e3b341"),
    ("#c2347f", "#f07ab5"),
    ("#1787a6", "#4cc4e6"),
    ("#5f7d1f", "#a3c44f"),
    ("#7a5340", "#c79a83"),
    ("#5a6b7d", "#a3b3c4"),
)
# Beyond the palette's length its colours come again, dashed.
DASHES = ("", "7 4", "2 4", "10 3 2 3")


@dataclass(frozen=True)
class Series:
    """How something that charts draw looks.

    Args:
        style: its class in the style sheet.
        light: its colour on a light page.
        dark: its colour on a dark page.
        dash: of its lines, as SVG writes it; empty for solid ones.
    """

    style: str
    light: str
    dark: str
    dash: str = ""


ARM_SERIES = (
    Series("base", "#848f9c", "#7d8998"),
    Series("local", "#d2760f", "#f0a040"),
    Series("federated", "#1f5fd0", "#6ea0ff"),
    Series("fine_tuned", "#8a4fc4", "#b98ae8"),
    Series("centralized", "#138a6b", "#3cc49c"),
)


def numbered_series(count: int) -> list[Series]:
    """Series s0, s1, ... that can be told apart.

    Args:
        count: how many.

    Returns:
        One for each.
    """
    return [
        Series(f"s{index}", *PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)])
        for index in range(count)
    ]


def render_page(template: str, series: Sequence[Series], **values: Any) -> str:
    """Fill in a page.

    Args:
        template: its file among the templates.
        series: what its charts draw.
        values: what the template names.

    Returns:
        A complete HTML document.
    """
    environment = Environment(
        loader=PackageLoader("fedloom.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(series=series, **values)


def write_page(target: Path, page: str) -> Path:
    """Write a page so that a reader never sees half of it.

    Args:
        target: the file.
        page: the document.

    Returns:
        The file.
    """
    draft = target.with_name(f"{target.name}.tmp")
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, target)
    return target
