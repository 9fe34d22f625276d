"""Federated averaging (McMahan et al., arXiv 1602.05629, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import State, Tensors, Update, Weighting
from fedloom.aggregation.folding import fold
from fedloom.aggregation.mean import StreamingMean


class FedAvg:
    """x <- x + sum_k p_k (y_k - x), p_k = w_k / sum_j w_j over the clients that answered.

    Args:
        weighting: what w_k is: training examples, trained label tokens, or 1.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        self.weighting: Weighting = weighting

    def init(self, adapter: Tensors) -> State:
        """No state; see `Algorithm`."""
        return {}

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; without updates the adapter stays; see `Algorithm`."""
        delta = fold(updates, StreamingMean(adapter, self.weighting)).mean()
        if delta is None:
            return dict(adapter), state
        return {name: (value.double() + delta[name]).to(value.dtype) for name, value in adapter.items()}, state
