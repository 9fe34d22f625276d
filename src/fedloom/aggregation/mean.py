"""Weighted means of updates, one update in memory at a time; see `fold`."""

from __future__ import annotations

import torch
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update, Weighting, update_weight
from fedloom.aggregation.folding import check_delta


class StreamingMean:
    """Accumulates sum_k w_k D_k in fp64, so that the order of arrival does not show in the fp32 result.

    Args:
        reference: what is averaged; every update must have its names and shapes.
        weighting: see `update_weight`.
    """

    def __init__(self, reference: Tensors, weighting: Weighting) -> None:
        self._reference = reference
        self._weighting = weighting
        self._sums = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in reference.items()}
        self._total = torch.zeros((), dtype=torch.float64)

    @property
    def sums(self) -> dict[str, Tensor]:
        """The weighted sums under the adapter's names, and the sum of the weights under "weights"; fp64."""
        return {**self._sums, "weights": self._total}

    def add(self, update: Update) -> None:
        """Fold one update in.

        Args:
            update: a client's update.

        Raises:
            RejectedUpdate: where names, shapes, numbers or the weight are not acceptable.
        """
        weight = update_weight(update, self._weighting)
        check_delta(update.delta, self._reference)
        for name, value in update.delta.items():
            self._sums[name].add_(value, alpha=weight)
        self._total += weight

    def mean(self) -> dict[str, Tensor] | None:
        """The mean update, fp64, or None where no update came; the sums are used up."""
        total = float(self._total)
        return {name: value.div_(total) for name, value in self._sums.items()} if total else None


def added(adapter: Tensors, delta: Tensors) -> dict[str, Tensor]:
    """X + D, computed in fp64 and rounded once to the format of x.

    Args:
        adapter: x.
        delta: D; what it does not name stays as it is.

    Returns:
        The sum, under the names of x.
    """
    return {name: (delta[name] + value).to(value.dtype) if name in delta else value for name, value in adapter.items()}
