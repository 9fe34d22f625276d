"""A runtime is one method: given a plan and what the server broadcasts, bring the clients' updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from fedloom.aggregation import Algorithm, Update
from fedloom.aggregation.base import Factors


@dataclass(frozen=True)
class RoundPlan:
    """Who trains in a round, and how.

    Args:
        arm: the arm of the run this round belongs to: federated, fine_tuned, local or centralized.
        round: from 1.
        clients: names, sorted.
        learning_rate: of this round.
        batch_size: examples a step.
        personal: clients go on from their own stored adapter and moments instead of the broadcast one.
        trained: the LoRA factors that clients train.
        fetched: those that they are sent, where they know the others.
        private_layers: layers whose tensors stay with clients.
        frozen_layers: layers that nobody trains or sends.
        sparse: of each client, the share of neurons that it trains of what it keeps; empty: all train all of it.
        prune_rates: of each client, the share of the base's units that it leaves out; those not named: 0.
        data_share: of each client's batches, from the easiest on, how many it trains on; see `training.curriculum`.
        versions: the rounds after which clients got the adapter they train from, where it is not the newest.
        missing: clients that were drawn and don't count in this simulated round, and why.
        simulated_seconds: how long the round takes on the recipe's simulated clock; None without one.
        simulated_waiting_seconds: of these, what a client waits for the others, mean over clients; None where unknown.
        simulated_clients: in a simulated network, every answering client's seconds of receiving, computing, sending and
            waiting, its prune_rate and its bandwidth_hz.
    """

    arm: str
    round: int
    clients: tuple[str, ...]
    learning_rate: float
    batch_size: int
    personal: bool = False
    trained: Factors = "both"
    fetched: Factors = "both"
    private_layers: tuple[int, ...] = ()
    frozen_layers: tuple[int, ...] = ()
    sparse: Mapping[str, float] = field(default_factory=dict)
    prune_rates: Mapping[str, float] = field(default_factory=dict)
    data_share: float = 1.0
    versions: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    simulated_seconds: float | None = None
    simulated_waiting_seconds: float | None = None
    simulated_clients: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@runtime_checkable
class MadeTogether(Protocol):
    """Updates that several processes make; `process_seconds` says how long each of them worked, once they are done."""

    process_seconds: list[float]


class Runtime(Protocol):
    """Trains the clients of a plan."""

    def train(self, plan: RoundPlan, broadcast: Mapping[str, Tensor], algorithm: Algorithm) -> Iterable[Update]:
        """Train every client of the plan, starting from the broadcast adapter.

        Args:
            plan: the round.
            broadcast: what the server sends: the adapter, and what the algorithm sends beside it.
            algorithm: whose clients' half says how they train.

        Returns:
            One update for each client in the plan's order, to iterate over or to `fold`, once; metrics hold loss,
            tokens, label_tokens, bytes_up and bytes_down.
        """
        ...
