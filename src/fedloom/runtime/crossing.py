"""Which tensors of an adapter cross in a round: as its plan and the algorithm say, before anybody has trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedloom.aggregation import Algorithm
from fedloom.model.tensor_names import factor_names, names_in_layers, private_names
from fedloom.runtime.base import RoundPlan


@dataclass(frozen=True)
class Crossing:
    """Names of an adapter's tensors.

    Args:
        trained: that clients train.
        private: that stay with their client.
        up: that clients send, in the adapter's order.
        down: that they are sent.
    """

    trained: set[str]
    private: set[str]
    up: list[str]
    down: set[str]


def crossing(names: Collection[str], plan: RoundPlan, algorithm: Algorithm, patterns: Sequence[str]) -> Crossing:
    """Tell which tensors cross.

    Args:
        names: of the adapter's tensors.
        plan: the round.
        algorithm: whose clients' half says how they train.
        patterns: of the names of tensors that stay with their client, as the plan's private layers do.

    Returns:
        The names.
    """
    frozen = names_in_layers(names, plan.frozen_layers)
    trained = factor_names(names, plan.trained) - frozen
    private = private_names(names, algorithm.shared, patterns) | names_in_layers(names, plan.private_layers)
    up = [name for name in names if name in trained and name not in private]
    return Crossing(trained, private, up, factor_names(names, plan.fetched) - private - frozen)
