"""Which examples a client sees in which step: keyed by seed, round and client, by nothing else."""

from __future__ import annotations

import numpy as np

from fedloom.randomness import numpy_generator
from fedloom.recipe.schema import LocalConfig


def round_tokens(lengths: np.ndarray, local: LocalConfig, batch_size: int) -> float:
    """How much a client trains in a round, roughly: the same in every round.

    Args:
        lengths: [examples] int64, tokens of its training examples.
        local: steps or epochs.
        batch_size: examples a step.

    Returns:
        Tokens of a round's batches, were all examples of their mean length.
    """
    tokens = float(lengths.sum())
    if local.steps is None:
        return tokens * (local.epochs or 1)
    return tokens / len(lengths) * local.steps * min(batch_size, len(lengths))


def round_batches(
    examples: int, local: LocalConfig, batch_size: int, seed: int, round_number: int, client: str
) -> list[np.ndarray]:
    """The batches of one client in one round: passes over its shuffled examples.

    With `local.steps`, one pass flows into the next so that every batch is full (a client with fewer examples than
    a batch takes all of them once per step); with `local.epochs`, a pass ends with a smaller batch.

    Args:
        examples: number of training examples.
        local: steps or epochs.
        batch_size: examples a step.
        seed: the recipe's seed.
        round_number: the round.
        client: the client's name.

    Returns:
        One int64 array of example indices for each step.
    """
    generator = numpy_generator(seed, "batches", round_number, client)
    if local.epochs is not None:
        batches: list[np.ndarray] = []
        for _ in range(local.epochs):
            order = generator.permutation(examples)
            batches.extend(order[first : first + batch_size] for first in range(0, examples, batch_size))
        return batches
    assert local.steps is not None
    size = min(batch_size, examples)
    passes = -(-local.steps * size // examples)
    stream = np.concatenate([generator.permutation(examples) for _ in range(passes)])
    return [stream[step * size : (step + 1) * size] for step in range(local.steps)]
