"""Small federations that learn from preferences: which of two words is the one that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.federated_runs import CLIENTS, WORDS
from tests.federated_runs import recipe as sft_recipe


def write_pairs(path: Path, clients: tuple[str, ...] = CLIENTS, seed: int = 0, growth: int = 2) -> Path:
    """Clients of unequal size, prompts and answers of unequal length: the longer answers say more words."""
    generator = np.random.default_rng(seed)
    rows = []
    for number, client in enumerate(clients):
        for _ in range(6 + growth * number):
            length = int(generator.integers(3, 5 + 2 * (number % 4)))
            words = [str(word) for word in generator.choice(WORDS, length, replace=False)]
            place = int(generator.integers(length))
            more = " ".join(str(word) for word in generator.choice(WORDS, int(generator.integers(0, 3))))
            rows.append(
                {
                    "prompt": f"word {place + 1} of: {' '.join(words)}",
                    "chosen": words[place],
                    "rejected": f"{words[place - 1]} {more}".strip(),
                    "owner": client,
                }
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(source: Path, task: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A recipe over `write_pairs`, in fp32, every client in every round."""
    fields = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    values = sft_recipe(source, **sections)
    values["task"] = {"kind": "dpo", **(task or {})}
    values["data"]["fields"] = fields
    return values
