"""Whether the base model and the data are still those a comparison began with: else its cells compare nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fedloom.comparison.workshop import Workshop
from fedloom.errors import UserError
from fedloom.model.fingerprint import base_fingerprint
from fedloom.recipe import Recipe
from fedloom.run_directory import write_json

FINGERPRINTS = "fingerprints.json"


def check_same_files(folder: Path, workshop: Workshop, recipes: Iterable[Recipe]) -> None:
    """Remember what the files of a comparison's runs are, or check them where that was done before.

    Cells that have begun check their own; this keeps new cells from beginning with other files than those.

    Args:
        folder: the comparison's.
        workshop: opens the data.
        recipes: of all runs, with their seeds.

    Raises:
        UserError: where a base model's files, a source, a template or a tokenizer have changed.
    """
    bases: dict[str, str] = {}
    data: set[str] = set()
    for recipe in recipes:
        if recipe.model.base not in bases:
            bases[recipe.model.base] = base_fingerprint(recipe.model)
        data.add(workshop.data(recipe).fingerprint)
    found = {"base": bases, "data": sorted(data)}
    file = folder / FINGERPRINTS
    if not file.exists():
        write_json(file, found)
        return
    stored = json.loads(file.read_text(encoding="utf-8"))
    for part, told in (("base", "model.base: the files"), ("data", "data: a source, the template or the tokenizer")):
        if stored[part] != found[part]:
            raise UserError(
                f"--resume: {told} changed since the comparison in {folder} began, so its runs can't be compared",
                hint="put the former files back, or begin anew in a new folder",
            )
