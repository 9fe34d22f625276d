"""What clients train of what they keep to themselves: their Fisher information from round to round, and its masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.runtime.task import ClientTask
from fedloom.training.cohort import ClientResult
from fedloom.training.entries import MaskedEntries, TrainedEntries
from fedloom.training.sparse import neuron_mask, neurons_of, next_fisher

# Of a client's state: its private entries' Fisher information.
FISHER = "fisher"


class SparseUpdates:
    """Sparse local updates of one round.

    Args:
        grouped: the adapters' layout.
        momentum: of the Fisher information.
        private: names of the tensors that stay with clients.
        trained: names of those trained in this round, shared ones included.
    """

    def __init__(
        self, grouped: GroupedAdapter[Any], momentum: float, private: Collection[str], trained: Collection[str]
    ) -> None:
        self._grouped = grouped
        self._momentum = momentum
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

    def states(self, tasks: Sequence[ClientTask], results: Sequence[ClientResult]) -> list[dict[str, Tensor]]:
        """What clients remember after their round.

        Args:
            tasks: the clients' rounds.
            results: what came of each.

        Returns:
            For each its Fisher information, fp32 [private entries].
        """
        kept = []
        for task, result in zip(tasks, results, strict=True):
            assert result.fisher is not None
            measured = self._entries.values(result.fisher).cpu()
            before = self._fisher.pop(task.client, None)
            fisher = measured if before is None else next_fisher(before, measured, self._momentum)
            kept.append({FISHER: fisher})
        return kept
