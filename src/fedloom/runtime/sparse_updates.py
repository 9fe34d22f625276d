"""What clients train of what they keep to themselves: their Fisher information from round to round, and its masks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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

# Given an adapter and some of a client's examples, fp32 [parameters]; see `fisher_diagonal`.
MeasureFisher = Callable[[Adapter, ExampleSet, np.ndarray], Tensor]
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

    def entries(self, task: ClientTask, start: Adapter, stored: Mapping[str, Tensor], share: float) -> MaskedEntries:
        """What a client trains: shared tensors whole, and of its private ones the neurons that matter most.

        Args:
            task: the client's round.
            start: where it begins.
            stored: its state; where it has no Fisher information, that is measured now.
            share: of the neurons.

        Returns:
            The entries.
        """
        fisher = stored[FISHER] if FISHER in stored else self._measured(task, start)
        self._fisher[task.client] = fisher
        mask = neuron_mask(fisher, self._neurons, share)
        return MaskedEntries(self._grouped, self._trained, self._private, mask)

    def state(self, task: ClientTask, adapter: Adapter) -> dict[str, Tensor]:
        """What a client remembers after its round.

        Args:
            task: the client's round.
            adapter: where it arrived.

        Returns:
            Its Fisher information, fp32 [private entries].
        """
        before = self._fisher.pop(task.client)
        return {FISHER: next_fisher(before, self._measured(task, adapter), self._config.momentum)}

    def _measured(self, task: ClientTask, adapter: Adapter) -> Tensor:
        draw = numpy_generator(self._seed, "sparse", self._round, task.client).permutation(len(task.examples))
        chosen = np.sort(draw[: self._config.examples])
        return self._entries.values(self._measure(adapter, task.examples, chosen)).cpu()
