"""What clients train of what they keep to themselves: their Fisher information from round to round, and its masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
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
        # What clients at work began with.
        self._fisher: dict[str, Tensor] = {}

    def entries(
        self,
        tasks: Sequence[ClientTask],
        starts: Sequence[Adapter],
        stored: Sequence[Mapping[str, Tensor]],
        shares: Sequence[float],
    ) -> list[MaskedEntries]:
        """What clients train: shared tensors whole, and of their private ones the neurons that matter most.

        Args:
            tasks: the clients' rounds.
            starts: where each begins.
            stored: the state of each; where it has no Fisher information, that is measured now.
            shares: of the neurons, for each client.

        Returns:
            The entries of each.
        """
        fisher = {task.client: state[FISHER] for task, state in zip(tasks, stored, strict=True) if FISHER in state}
        new = [place for place, task in enumerate(tasks) if task.client not in fisher]
        measured = self._measured([tasks[place] for place in new], [starts[place] for place in new])
        fisher |= {tasks[place].client: value for place, value in zip(new, measured, strict=True)}
        self._fisher |= fisher
        return [
            MaskedEntries(
                self._grouped, self._trained, self._private, neuron_mask(fisher[task.client], self._neurons, share)
            )
            for task, share in zip(tasks, shares, strict=True)
        ]

    def states(self, tasks: Sequence[ClientTask], adapters: Sequence[Adapter]) -> list[dict[str, Tensor]]:
        """What clients remember after their round.

        Args:
            tasks: the clients' rounds.
            adapters: where each arrived.

        Returns:
            For each its Fisher information, fp32 [private entries].
        """
        return [
            {FISHER: next_fisher(self._fisher.pop(task.client), measured, self._config.momentum)}
            for task, measured in zip(tasks, self._measured(tasks, adapters), strict=True)
        ]

    def _measured(self, tasks: Sequence[ClientTask], adapters: Sequence[Adapter]) -> list[Tensor]:
        if not tasks:
            return []
        chosen = [self._examples(task) for task in tasks]
        diagonals = self._measure(adapters, [task.examples for task in tasks], chosen)
        return [self._entries.values(diagonal).cpu() for diagonal in diagonals]

    def _examples(self, task: ClientTask) -> np.ndarray:
        draw = numpy_generator(self._seed, "sparse", self._round, task.client).permutation(len(task.examples))
        return np.sort(draw[: self._config.examples])
