"""Federated averaging (McMahan et al., arXiv 1602.05629, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import Algorithm, State, Tensors, Update, Weighting
from fedloom.aggregation.folding import fold
from fedloom.aggregation.mean import StreamingMean, added


class FedAvg(Algorithm):
    """x <- x + sum_k p_k (y_k - x), p_k = w_k / sum_j w_j over the clients that answered.

    Args:
        weighting: what w_k is: training examples, trained label tokens, or 1.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        self.weighting = weighting

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        delta = fold(updates, StreamingMean(adapter, self.weighting)).mean()
        return (dict(adapter), state) if delta is None else (added(adapter, delta), state)
