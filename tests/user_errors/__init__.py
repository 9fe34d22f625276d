"""What the tests of users' mistakes share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

# Runs a command that must be refused; returns what it wrote to stderr.
Refused = Callable[..., str]
SMALL: dict[str, Any] = {
    "federation": {"rounds": 3, "clients_per_round": 2},
    "local": {"epochs": None, "steps": 1, "batch_size": 2},
    "evaluation": {"max_examples": 2},
}


def contains(told: str, *parts: str) -> None:
    for part in parts:
        assert part in told, told


def rewrite(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None
