"""The recipes that come with Fedloom."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def shipped_recipes() -> dict[str, Path]:
    """Recipes by name.

    Returns:
        Paths of the YAML files: beside the package when installed, in the repository when worked on.
    """
    for folder in (PACKAGE / "recipes", PACKAGE.parent.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def first_comment(path: Path) -> str:
    """What a recipe says of itself in its first line.

    Args:
        path: a YAML file.

    Returns:
        The comment without its sign, or nothing.
    """
    line = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return line.lstrip("# ") if line.startswith("#") else ""
