"""The learning rate over rounds."""

from __future__ import annotations

import math

from fedloom.recipe.schema import LocalConfig


def learning_rate(local: LocalConfig, base_rate: float, round_number: int, rounds: int) -> float:
    """The learning rate of one round; constant within the round.

    Args:
        local: names the schedule: constant; linear, falling to 1/rounds of the first; cosine, half a period.
        base_rate: the rate of the first round.
        round_number: from 1.
        rounds: of the whole run.

    Returns:
        The rate, positive in every round.
    """
    progress = (round_number - 1) / rounds
    if local.schedule == "linear":
        return base_rate * (1 - progress)
    if local.schedule == "cosine":
        return base_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return base_rate
