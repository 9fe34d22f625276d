"""Comparisons: a small grid, and what of it must not depend on kills, processes or the machine."""

import json
from pathlib import Path
from typing import Any

from tests.federated_runs import recipe, without_times, write_examples

VARIANTS = ["fedavg", {"name": "fedprox", "mu": 0.1}]
RATES = [1e-4, 3e-3, 3e-2]


def small_recipe(folder: Path) -> dict[str, Any]:
    """Four clients, three rounds of one step."""
    rows = write_examples(folder / "rows.jsonl", clients=("ada", "bo", "cyd", "dee"))
    return recipe(
        rows,
        data={"split": {"validation": 0.2, "test": 0.2}},
        federation={"rounds": 3, "clients_per_round": 2},
        local={"epochs": None, "steps": 1, "batch_size": 2, "schedule": "cosine"},
        evaluation={"every": 2, "max_examples": 2},
    )


def results(folder: Path) -> dict[str, Any]:
    """compare.json without what a clock has measured."""
    return without_times(json.loads((folder / "compare.json").read_text()))
