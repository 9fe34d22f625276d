"""Whether bases, data, adapters to start from and scenarios are those a comparison began with: else it is none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fedloom.comparison.workshop import Workshop
from fedloom.errors import UserError
from fedloom.model.fingerprint import base_fingerprint
from fedloom.model.start import start_fingerprint, start_of
from fedloom.participation import scenario_fingerprint
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
        UserError: where a base model's files, an adapter to start from, a scenario, a source, a template or a
            tokenizer have changed.
    """
    bases: dict[str, str] = {}
    starts: dict[str, str] = {}
    data: set[str] = set()
    scenarios: set[str] = set()
    for recipe in recipes:
        if recipe.model.base not in bases:
            bases[recipe.model.base] = base_fingerprint(recipe.model)
        data.add(workshop.data(recipe).fingerprint)
        for fingerprint in start_fingerprint(recipe.model.adapter).values():
            starts[str(start_of(recipe.model.adapter))] = fingerprint
        if (wireless := recipe.federation.participation.wireless) is not None:
            scenarios.add(scenario_fingerprint(wireless))
    found = {
        "base": bases,
        "data": sorted(data),
        **({"start": starts} if starts else {}),
        **({"scenario": sorted(scenarios)} if scenarios else {}),
    }
    file = folder / FINGERPRINTS
    if not file.exists():
        write_json(file, found)
        return
    stored = json.loads(file.read_text(encoding="utf-8"))
    parts = {
        "base": "model.base: the files",
        "data": "data: a source, the template or the tokenizer",
        "start": "model.adapter.start: the files",
        "scenario": "federation.participation.wireless.scenario: a file or its trace",
    }
    for part, told in parts.items():
        if stored.get(part) != found.get(part):
            raise UserError(
                f"--resume: {told} changed since the comparison in {folder} began, so its runs can't be compared",
                hint="put the former files back, or begin anew in a new folder",
            )
