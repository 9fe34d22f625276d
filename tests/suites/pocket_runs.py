"""A finished run of the embedded model, small and quick, to evaluate."""

from pathlib import Path
from typing import Any

from fedloom.runs import run
from tests.federated_runs import recipe, write_examples


def pocket_run(folder: Path, **sections: Any) -> Path:
    """Two rounds with a learning rate that moves the adapter well away from the base."""
    source = write_examples(folder / "words.jsonl", clients=("ada", "bo"))
    local = {"epochs": None, "steps": 4, "learning_rate": 2e-2}
    sections = {"federation": {"rounds": 2, "clients_per_round": 2}, "local": local, **sections}
    return run(recipe(source, **sections), folder / "run").out
