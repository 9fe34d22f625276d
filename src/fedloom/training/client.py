"""One client while it trains: its trained entries, its moments, and what its algorithm adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule
from fedloom.data.shards import ExampleSet
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.units import Block
from fedloom.training.entries import TrainedEntries
from fedloom.training.objectives import LabelObjective, Objective
from fedloom.training.optimizers import Optimizer, OptimizerState, clip_gradient


@dataclass(frozen=True)
class LocalTraining:
    """How the clients of a round train.

    Args:
        optimizer: the local optimiser.
        rate: the learning rate.
        max_gradient_norm: each client's gradient is clipped to it; None: never.
        round_number: for messages.
        momentum: the optimiser's, for algorithms that have to know it.
        entries: what is trained; None: the whole adapter.
        objective: what is minimised.
    """

    optimizer: Optimizer
    rate: float
    max_gradient_norm: float | None
    round_number: int
    momentum: float = 0.0
    entries: TrainedEntries | None = None
    objective: Objective = field(default_factory=LabelObjective)


@dataclass(frozen=True)
class Omission:
    """What a client leaves out of the base.

    Args:
        blocks: the base's units.
        kept: bool [units], those that it keeps.
        sliced: whether it trains alone over smaller weights, or with others over the whole base, under masks.
    """

    blocks: Sequence[Block]
    kept: Tensor
    sliced: bool


@dataclass(frozen=True)
class ClientWork:
    """What one client of a cohort has to do.

    Args:
        client: its name.
        examples: its training examples.
        batches: indices into them, one array for each step.
        adapter: where it starts.
        optimizer_state: moments of an earlier round, one vector for each name; None: fresh.
        rule: what the algorithm adds to its training.
        broadcast: the adapter that the server sent; None: the one where it starts.
        received: what else the server sent, a vector of trained entries for each name.
        kept: what the rule kept in an earlier round.
        entries: what this client trains; None: what all of the round do.
        omission: what it leaves out of the base; None: nothing.
        fisher: whether its last step tells the Fisher information of its examples; of label losses only.
    """

    client: str
    examples: ExampleSet
    batches: list[np.ndarray]
    adapter: Adapter
    optimizer_state: OptimizerState | None = None
    rule: ClientRule = field(default_factory=ClientRule)
    broadcast: Adapter | None = None
    received: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    entries: TrainedEntries | None = None
    omission: Omission | None = None
    fisher: bool = False


class LocalClient:
    """The state of one client's round, on one row of the cohort's buffers.

    Args:
        work: what it has to do.
        grouped: the loaded adapters.
        row: the client's row.
        training: how it trains.
        full_gradient: over all of its data at its start, where its rule asks for it.
    """

    def __init__(
        self,
        work: ClientWork,
        grouped: GroupedAdapter[Any],
        row: int,
        training: LocalTraining,
        full_gradient: Tensor | None,
    ) -> None:
        self.work = work
        self._training = training
        self._grouped = grouped
        self._row = grouped.values[row]
        self._gradients = grouped.gradients[row]
        self._entries = work.entries or training.entries or TrainedEntries(grouped)
        self._values = self._entries.values(self._row)
        received = {name: vector.to(grouped.device) for name, vector in work.received.items()}
        if full_gradient is not None:
            received["full_gradient"] = self._clipped(self._entries.gradients(full_gradient))
        start = self._values.clone()
        broadcast = start
        if work.broadcast is not None and work.broadcast is not work.adapter:
            broadcast = self._entries.values(grouped.flatten(work.broadcast).to(grouped.device))
        kept = {name: vector.to(grouped.device) for name, vector in work.kept.items()}
        self._memory = work.rule.begin(
            ClientRound(start, broadcast, received, kept, self._entries.views, training.momentum)
        )
        if work.optimizer_state is None:
            self.moments = training.optimizer.init(self._values)
        else:
            # A copy: the optimiser works in place, and a client's work description is not to change.
            self.moments = {name: value.to(grouped.device, copy=True) for name, value in work.optimizer_state.items()}

    def step(self) -> None:
        """One optimiser step along the gradient in the client's row."""
        values, rule, rate = self._values, self.work.rule, self._training.rate
        gradients = self._entries.gradients(self._gradients)
        rule.before_clipping(values, gradients, self._memory)
        gradients = self._clipped(gradients)
        rule.after_clipping(values, gradients, self._memory, rate)
        self._training.optimizer.update(values, gradients, self.moments, rate)
        rule.after_step(values, self._memory)
        self._entries.put(values, self._row)

    def finish(self) -> tuple[Adapter, ClientFinish]:
        """End the round.

        Returns:
            The adapter it sends, fp32 on the CPU, and what its rule keeps, sends and reports, on the CPU too.
        """
        finish = self.work.rule.finish(self._values, self._memory)
        self._entries.put(self._values, self._row)
        kept = {name: vector.to("cpu", copy=True) for name, vector in finish.kept.items()}
        extra = {name: vector.to("cpu", copy=True) for name, vector in finish.extra.items()}
        beside = {name: value.to("cpu", copy=True) for name, value in self._entries.beside(self._values).items()}
        return {**self._grouped.unflatten(self._row), **beside}, ClientFinish(kept, extra, finish.metrics)

    def state(self) -> OptimizerState:
        """The optimiser's moments, on the CPU."""
        return {name: value.cpu() for name, value in self.moments.items()}

    def is_finite(self) -> bool:
        """Whether all of its values are numbers."""
        return bool(torch.isfinite(self._row).all())

    def _clipped(self, gradients: Tensor) -> Tensor:
        if self._training.max_gradient_norm is not None:
            clip_gradient(gradients, self._training.max_gradient_norm)
        return gradients
