"""A runtime is one method: given a plan and a broadcast adapter, bring the clients' updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from fedloom.aggregation import Update


@dataclass(frozen=True)
class RoundPlan:
    """Who trains in a round, and how.

    Args:
        arm: the arm of the run this round belongs to: federated, local or centralized.
        round: from 1.
        clients: names, sorted.
        learning_rate: of this round.
        batch_size: examples a step.
        personal: clients go on from their own stored adapter and moments instead of the broadcast one.
        missing: clients that were drawn and don't count in this simulated round, and why.
        simulated_seconds: how long the round takes on the recipe's simulated clock; None without one.
    """

    arm: str
    round: int
    clients: tuple[str, ...]
    learning_rate: float
    batch_size: int
    personal: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    simulated_seconds: float | None = None


class Runtime(Protocol):
    """Trains the clients of a plan."""

    def train(self, plan: RoundPlan, broadcast: Mapping[str, Tensor]) -> Iterable[Update]:
        """Train every client of the plan, starting from the broadcast adapter.

        Args:
            plan: the round.
            broadcast: the adapter sent to the clients.

        Returns:
            One update for each client in the plan's order, to iterate over or to `fold`, once; metrics hold loss,
            tokens, label_tokens, bytes_up and bytes_down.
        """
        ...
