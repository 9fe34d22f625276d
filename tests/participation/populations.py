"""Populations for tests of participation: names, sizes and a clock over them."""

from pathlib import Path
from typing import Any

import numpy as np

from fedloom.participation import Clock, Participation, read_trace
from fedloom.recipe.participation_schema import ParticipationConfig

SEED = 7


def names(count: int) -> list[str]:
    return [f"client-{index:03d}" for index in range(count)]


def participation(
    count: int = 20, wanted: int = 5, sizes: list[int] | None = None, seed: int = SEED, **section: Any
) -> Participation:
    """Clients with 1000 tokens to train and adapters that take no time."""
    config, clients = ParticipationConfig.model_validate(section), names(count)
    examples = np.ones(count, dtype=np.int64) if sizes is None else np.array(sizes, dtype=np.int64)
    clock = None if config.clock is None else Clock(config.clock, seed, lambda _: 1000.0, 0, 0)
    trace = None if config.availability_trace is None else read_trace(config.availability_trace, clients)
    return Participation(config, wanted, seed, clients, lambda: examples, clock, trace)


def write_trace(path: Path, *intervals: tuple[str, float, float]) -> str:
    rows = [f'{{"client": "{client}", "from": {start}, "to": {end}}}\n' for client, start, end in intervals]
    path.write_text("".join(rows))
    return str(path)
