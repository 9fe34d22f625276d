"""What clients train of what they keep to themselves: their Fisher information from round to round, and its masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloom.data.shards import ExampleSet
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.randomness import numpy_generator
from fedloom.recipe.layers_schema import SparseUpdatesConfig
from fedloom.runtime.task import ClientTask
from fedloom.training.entries import MaskedEntries, TrainedEntries
from fedloom.training.sparse import neuron_mask, neurons_of, next_fisher

# Given clients' adapters and some of each one's examples, fp32 [clients, parameters]; see `fisher_diagonals`.
MeasureFisher = Callable[[Sequence[Adapter], Sequence[ExampleSet], Sequence[np.ndarray]], Tensor]
# Of a client's state: its private entries' Fisher information.
FISHER = "fisher"


class SparseUpdates:
    """Sparse local updates of one round.

    Args:
        grouped: the adapters' layout.
        config: the recipe's section.
        seed: the recipe's seed.
        round_number: the round.
        measure: Fisher information.
        private: names of the tensors that stay with clients.
        trained: names of those trained in this round, shared ones included.
    """

    def __init__(
        self,
        grouped: GroupedAdapter[Any],
        config: SparseUpdatesConfig,
        seed: int,
        round_number: int,
        measure: MeasureFisher,
        private: Collection[str],
        trained: Collection[str],
    ) -> None:
        self._grouped = grouped
        self._config = config
        self._seed = seed
        self._round = round_number
        self._measure = measure
        self._trained = trained
        self._private = private
        self._entries = TrainedEntries(grouped, private)
        self._neurons = neurons_of({name: shape for name, shape in grouped.shapes.items() if name in private})
        # What clients at work began with; nothing of those in their first round.
        self._fisher: dict[str, Tensor] = {}

    def entries(
        self, tasks: Sequence[ClientTask], stored: Sequence[Mapping[str, Tensor]], shares: Sequence[float]
    ) -> list[MaskedEntries]:
        """What clients train: shared tensors whole, and of their private ones the neurons that matter most.

        A client's first round is a warm-up of all neurons: a fresh LoRA, whose B is zero, has no information in A.

        Args:
            tasks: the clients' rounds.
            stored: the state of each; before its first round there is no Fisher information in it.
            shares: of the neurons, for each client.

        Returns:
            The entries of each.
        """
        self._fisher |= {task.client: state[FISHER] for task, state in zip(tasks, stored, strict=True) if state}
        return [
            MaskedEntries(self._grouped, self._trained, self._private, self._mask(task.client, share))
            for task, share in zip(tasks, shares, strict=True)
        ]

    def _mask(self, client: str, share: float) -> Tensor:
        if client in self._fisher:
            return neuron_mask(self._fisher[client], self._neurons, share)
        return torch.ones_like(self._neurons.of_entry, dtype=torch.bool)

    def states(self, tasks: Sequence[ClientTask], adapters: Sequence[Adapter]) -> list[dict[str, Tensor]]:
        """What clients remember after their round.

        Args:
            tasks: the clients' rounds.
            adapters: where each arrived.

        Returns:
            For each its Fisher information, fp32 [private entries].
        """
        kept = []
        for task, measured in zip(tasks, self._measured(tasks, adapters), strict=True):
            before = self._fisher.pop(task.client, None)
            fisher = measured if before is None else next_fisher(before, measured, self._config.momentum)
            kept.append({FISHER: fisher})
        return kept

    def _measured(self, tasks: Sequence[ClientTask], adapters: Sequence[Adapter]) -> list[Tensor]:
        chosen = [self._examples(task) for task in tasks]
        diagonals = self._measure(adapters, [task.examples for task in tasks], chosen)
        return [self._entries.values(diagonal).cpu() for diagonal in diagonals]

    def _examples(self, task: ClientTask) -> np.ndarray:
        draw = numpy_generator(self._seed, "sparse", self._round, task.client).permutation(len(task.examples))
        return np.sort(draw[: self._config.examples])
