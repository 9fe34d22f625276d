"""Writes the lists of recipes in README.md and docs/recipes.md from the recipes' own headings.

`--check` writes nothing and fails where a list is not up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from fedloom.recipe.shipped import OWN, Heading, grouped

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- recipes: written by tools/list_recipes.py -->", "<!-- recipes: end -->"


def short_list() -> str:
    """A line for each recipe, for the README."""
    lines = []
    for group, headings in grouped().items():
        lines += ["", f"- **{_title(group, headings)}**"]
        lines += [f"  - `{name}`: {one.about}" for name, one in headings.items()]
    return "\n".join(lines[1:])


def long_list() -> str:
    """Everything that the headings say, for docs/recipes.md."""
    blocks = []
    for group, headings in grouped().items():
        blocks.append(f"## {_title(group, headings)}")
        differs = {one.differs for one in headings.values()}
        shared = differs.pop() if len(differs) == 1 else ""
        if shared:
            blocks.append(f"Differs from the paper: {shared}.")
        for name, one in headings.items():
            said = [f"### {name}", one.about, f"Setting: {one.setting}."]
            if one.differs and not shared:
                said.append(f"Differs from the paper: {one.differs}.")
            blocks += [*said, f"```sh\n{one.commands}\n```"]
    return "\n\n".join(blocks)


def _title(group: str, headings: dict[str, Heading]) -> str:
    paper = next((one.paper for one in headings.values()), "")
    return "Our own" if group == OWN else paper


PAGES: dict[Path, Callable[[], str]] = {ROOT / "README.md": short_list, ROOT / "docs" / "recipes.md": long_list}


def main() -> None:
    """Write the lists, or check them."""
    stale = []
    for page, listed in PAGES.items():
        text = page.read_text(encoding="utf-8")
        parts = re.split(f"({re.escape(BEGIN)}\n).*({re.escape(END)})", text, flags=re.DOTALL)
        if len(parts) != 4:
            raise SystemExit(f"{page.name} has no place for the list")
        before, begin, end, after = parts
        written = f"{before}{begin}\n{listed()}\n\n{end}{after}"
        if written == text:
            continue
        stale.append(page.name)
        if "--check" not in sys.argv:
            page.write_text(written, encoding="utf-8")
    if stale and "--check" in sys.argv:
        raise SystemExit(f"not up to date: {', '.join(stale)}; run tools/list_recipes.py")


if __name__ == "__main__":
    main()
