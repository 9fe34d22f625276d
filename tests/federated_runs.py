"""Small federations for tests: real text tasks for the embedded model, written as a file a user could have."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.report.events import read_events

WORDS = ("river", "stone", "lamp", "winter", "garden", "letter", "bridge", "summer", "doctor", "market", "paper")
TIMES = {"seconds", "time", "train_seconds", "process_seconds", "aggregate_seconds", "data_seconds"}
CLIENTS = ("ada", "bo", "cyd", "dee", "eli", "fay", "gus", "hal")


def write_examples(path: Path, clients: tuple[str, ...] = CLIENTS, seed: int = 0, growth: int = 5) -> Path:
    """Clients of unequal size, with prompts of unequal length: repeat the word at a place of a list."""
    generator = np.random.default_rng(seed)
    rows = []
    for number, client in enumerate(clients):
        for _ in range(7 + growth * number):
            length = int(generator.integers(2, 4 + 4 * (number % 4)))
            words = [str(word) for word in generator.choice(WORDS, length)]
            place = int(generator.integers(length))
            prompt = f"word {place + 1} of: {' '.join(words)}"
            rows.append({"prompt": prompt, "response": words[place], "owner": client})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(source: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A recipe over `write_examples`, in fp32, every client in every round."""
    values: dict[str, Any] = {
        "name": "test",
        "model": {
            "base": "pocket",
            "dtype": "float32",
            "adapter": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]},
        },
        "data": {"source": str(source), "partition": {"kind": "by_key", "key": "owner"}},
        "federation": {"rounds": 3, "clients_per_round": 8},
        "local": {"epochs": 1, "batch_size": 6, "learning_rate": 3e-3, "max_gradient_norm": 0.5},
        "runtime": {"threads": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


def outcome(out: Path) -> dict[str, Any]:
    """All a run leaves that must not depend on kills, cohorts or processes: bytes, metrics and events without times."""
    adapters = sorted([*(out / "adapter").iterdir(), *out.glob("clients/*/*/*.safetensors")])
    return {
        "adapters": {str(path.relative_to(out)): path.read_bytes() for path in adapters},
        "metrics": without_times(json.loads((out / "metrics.json").read_text())),
        "events": without_times(read_events(out / "events.jsonl")),
        "files": sorted(path.name for path in out.iterdir()),
        "leftovers": sorted(str(path.relative_to(out)) for path in out.rglob("*.partial")),
    }


def without_times(value: Any) -> Any:
    """Values of a run without what a clock has measured."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value
