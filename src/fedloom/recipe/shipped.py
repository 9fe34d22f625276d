"""The recipes that come with Fedloom, and what their heading comments say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
# The group whose recipes are nobody's paper; it is listed first.
OWN = "Fedloom"
_KEY = re.compile(r"(Group|Paper|Setting|Differs|Here):\s*(.*)")


@dataclass(frozen=True)
class Heading:
    """The comment a recipe begins with.

    Args:
        about: one line on what it is.
        group: whose experiment.
        paper: title and arXiv id, empty where there is none.
        setting: model, adapter, clients, rounds, and what is measured.
        differs: in what it is known to differ from the paper.
        commands: a shell command that runs it here, with the embedded model and local data.
    """

    about: str
    group: str
    paper: str
    setting: str
    differs: str
    commands: str


def shipped_recipes() -> dict[str, Path]:
    """Recipes by name.

    Returns:
        Paths of the YAML files: beside the package when installed, in the repository when worked on. Those of a
        sub-folder have its name before their own, as fibecfed/sst2.
    """
    for folder in (PACKAGE / "recipes", PACKAGE.parent.parent / "recipes"):
        if folder.is_dir():
            found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
            return dict(sorted(found.items()))
    return {}


def heading(path: Path) -> Heading:
    """Read what a recipe says of itself.

    Args:
        path: a shipped YAML file.

    Returns:
        Its heading; what is not said is empty.
    """
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line[1:].removeprefix(" "))
    said: dict[str, list[str]] = {}
    key = ""
    for line in comment[1:]:
        found = _KEY.match(line)
        if found:
            key = found[1]
            said[key] = [found[2]] if found[2] else []
        elif key:
            said[key].append(line.removeprefix("  "))
    texts = {name.lower(): " ".join(lines) for name, lines in said.items() if name != "Here"}
    about = comment[0] if comment else ""
    return Heading(about, commands="\n".join(said.get("Here", [])), **{**_NOTHING, **texts})


_NOTHING = {"group": OWN, "paper": "", "setting": "", "differs": ""}


def grouped() -> dict[str, dict[str, Heading]]:
    """The shipped recipes by group.

    Returns:
        Group -> name -> heading: Fedloom's own first, then by name.
    """
    headings = {name: heading(path) for name, path in shipped_recipes().items()}
    groups = sorted({one.group for one in headings.values()}, key=lambda group: (group != OWN, group))
    return {group: {name: one for name, one in headings.items() if one.group == group} for group in groups}
