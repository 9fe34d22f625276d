"""Federated averaging (McMahan et al., arXiv 1602.05629, Algorithm 1)."""

from __future__ import annotations

from fedloom.aggregation.base import Weighting
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.mean import WeightedMean


class FedAvg(Composition):
    """x <- x + sum_k p_k (y_k - x), p_k = w_k / sum_j w_j over the clients that answered (1602.05629, Algorithm 1).

    Args:
        weighting: what w_k is: training examples, trained label tokens, or 1.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        super().__init__(WeightedMean(weighting))
