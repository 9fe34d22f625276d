"""The frame of Fedloom's pages: HTML files that need nothing else, to open offline, keep and send to others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# Colours that stay apart, against a light and a dark page; without those of the base model and of the baselines.
PALETTE = (
    ("#1f5fd0", "#6ea0ff"),
    ("#c2347f", "#f07ab5"),
    ("#7d3fc0", "#b98ae8"),
    ("#1787a6", "#4cc4e6"),
    ("#7a7a12", "#c9c94a"),
    ("#c0392f", "#f5857b"),
    ("#7a5340", "#cfa48d"),
    ("#4a5b70", "#a3b3c4"),
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


ARM_SERIES = {
    "base": Series("base", "#848f9c", "#7d8998"),
    "start": Series("start", "#4d5a2e", "#b3c27f"),
    "local": Series("local", "#d2760f", "#f0a040"),
    "federated": Series("federated", "#1f5fd0", "#6ea0ff"),
    "personal": Series("personal", "#c2347f", "#f07ab5"),
    "fine_tuned": Series("fine_tuned", "#8a4fc4", "#b98ae8"),
    "centralized": Series("centralized", "#138a6b", "#3cc49c"),
}


def numbered_series(arms: Sequence[str]) -> list[Series]:
    """Series s0, s1, ... that can be told apart: a colour of its own for each variant, that of its arm for a baseline.

    Args:
        arms: of each: federated for a variant.

    Returns:
        One for each.
    """
    found, met = [], Counter[str]()
    for index, arm in enumerate(arms):
        before, met[arm] = met[arm], met[arm] + 1
        if arm == "federated":
            light, dark = PALETTE[before % len(PALETTE)]
            dash = DASHES[before // len(PALETTE) % len(DASHES)]
        else:
            light, dark = ARM_SERIES[arm].light, ARM_SERIES[arm].dark
            dash = DASHES[(before + 1) % len(DASHES)]
        found.append(Series(f"s{index}", light, dark, dash))
    return found


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
