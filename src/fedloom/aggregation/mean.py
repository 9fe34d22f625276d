"""Weighted means of updates, one update in memory at a time; see `fold`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedloom.aggregation.base import RejectedUpdate, Tensors, Update, Weighting, update_weight
from fedloom.aggregation.folding import check_delta, fold

# Entries added at a time: pieces that stay in cache are converted to fp64 there. Whole tensors take six times as long.
PIECE = 1 << 18


class StreamingMean:
    """Accumulates sum_k w_k c_k D_k in fp64, so that the order of arrival does not show in the fp32 result.

    Subclasses say what c_k is (`scale`), or w_k (`weight`).

    Args:
        reference: what is averaged; every update must have its names and shapes.
        weighting: see `update_weight`.
    """

    def __init__(self, reference: Tensors, weighting: Weighting) -> None:
        self.reference = reference
        self._weighting = weighting
        self._sums = zeros_like(reference)
        self._total = torch.zeros((), dtype=torch.float64)

    @property
    def sums(self) -> dict[str, Tensor]:
        """The weighted sums under the adapter's names, and the sum of the weights under "weights"; fp64."""
        return {**self._sums, "weights": self._total}

    @property
    def total(self) -> float:
        """The sum of the weights w_k so far."""
        return float(self._total)

    def weight(self, update: Update) -> float:
        """The weight w_k of an update, > 0.

        Args:
            update: a client's, not yet checked.

        Returns:
            The weight.

        Raises:
            RejectedUpdate: where it has none.
        """
        return update_weight(update, self._weighting)

    def scale(self, update: Update) -> float:
        """The factor c_k that an update is multiplied with, over and above its weight.

        Args:
            update: a client's, checked.

        Returns:
            The factor.
        """
        return 1.0

    def add(self, update: Update) -> None:
        """Fold one update in.

        Args:
            update: a client's update.

        Raises:
            RejectedUpdate: where names, shapes, numbers or the weight are not acceptable.
        """
        weight = self.weight(update)
        check_delta(update.delta, self.reference)
        add_scaled(self._sums, update.delta, weight * self.scale(update))
        self._total += weight

    def mean(self) -> dict[str, Tensor] | None:
        """sum_k w_k c_k D_k / sum_k w_k in fp64, or None where no update came; the sums are used up."""
        total = self.total
        return {name: self._sums.pop(name).div_(total) for name in list(self._sums)} if total else None


class WeightedMean:
    """An aggregation rule: sum_k p_k D_k, p_k = w_k / sum_j w_j over the clients that answered.

    Args:
        weighting: what w_k is.
    """

    def __init__(self, weighting: Weighting) -> None:
        self.weighting = weighting

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """The mean of a round's updates; see `AggregationRule`."""
        return fold(updates, StreamingMean(reference, self.weighting)).mean()


def zeros_like(reference: Tensors) -> dict[str, Tensor]:
    """Zeros in fp64 under the same names.

    Args:
        reference: whose names and shapes they have.

    Returns:
        Named tensors to add to.
    """
    return {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in reference.items()}


def add_scaled(sums: Tensors, values: Tensors, factor: float) -> None:
    """Add factor * values to sums, in place and in fp64.

    Args:
        sums: contiguous fp64 tensors.
        values: in any floating-point format, under the same names.
        factor: what they are multiplied with.
    """
    for name, total in sums.items():
        pieces = zip(total.view(-1).split(PIECE), values[name].reshape(-1).split(PIECE), strict=True)
        for piece, addend in pieces:
            piece.add_(addend, alpha=factor)


def reported(metrics: Mapping[str, object], name: str, at_least: float) -> float:
    """A number that a client has to report with its update.

    Args:
        metrics: all that it reports.
        name: of the number.
        at_least: its lower bound.

    Returns:
        The number.

    Raises:
        RejectedUpdate: where it is missing, not a number, too small or not finite.
    """
    value = metrics.get(name)
    if not isinstance(value, int | float) or not at_least <= value < float("inf"):
        raise RejectedUpdate(f"{name} is {value!r}, must be a number >= {at_least:g}")
    return float(value)


def added(adapter: Tensors, delta: Tensors) -> dict[str, Tensor]:
    """The sum x + D, computed in fp64 and rounded once to the format of x.

    Args:
        adapter: x.
        delta: D; what it does not name stays as it is.

    Returns:
        The sum, under the names of x.
    """
    return {name: (delta[name] + value).to(value.dtype) if name in delta else value for name, value in adapter.items()}
