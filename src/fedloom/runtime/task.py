"""A client's round before its adapter is fetched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedloom.data.shards import ExampleSet


@dataclass(frozen=True)
class ClientTask:
    """What a client trains on in a round.

    Args:
        client: its name.
        examples: its training examples.
        batches: indices into them, one array for each step.
        tokens: of its longest batch.
    """

    client: str
    examples: ExampleSet
    batches: list[np.ndarray]
    tokens: int
