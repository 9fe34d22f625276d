"""The geometric median (RFA, Pillutla et al., arXiv 1912.13445): the point nearest to all updates together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update, Weighting
from fedloom.aggregation.collected import collected
from fedloom.aggregation.composition import Composition


def weiszfeld(squared_distances: Tensor, weights: Tensor, iterations: int, smallest_distance: float) -> Tensor:
    """The smoothed Weiszfeld iteration, on the weights with which updates are combined.

    Every iterate is z = sum_k c_k D_k, sum_k c_k = 1, and ||D_k - z||^2 = (Q c)_k - c'Qc / 2, where Q holds the squared
    distances between updates. So the updates are read twice, however many iterations there are.

    Args:
        squared_distances: Q, [n, n].
        weights: p_k, [n].
        iterations: how many.
        smallest_distance: nu; smaller distances count as this one.

    Returns:
        b_k, [n], of which c_k are the shares.
    """
    combined = weights
    for _ in range(iterations):
        share = combined / combined.sum()
        from_mean = squared_distances @ share
        distances = (from_mean - share @ from_mean / 2).clamp_(min=0).sqrt_()
        combined = weights / distances.clamp_(min=smallest_distance)
    return combined


class GeometricMedianRule:
    """An aggregation rule: the point with the smallest weighted sum of distances to the updates, nearly.

    Args:
        iterations: of Weiszfeld's algorithm.
        smallest_distance: nu.
        weighting: what p_k is proportional to.
    """

    def __init__(self, iterations: int, smallest_distance: float, weighting: Weighting) -> None:
        self.iterations = iterations
        self.smallest_distance = smallest_distance
        self.weighting = weighting

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """The median of a round's updates; see `AggregationRule`."""
        with collected(updates, reference, self.weighting) as matrix:
            if not matrix.clients:
                return None
            weights = torch.tensor(matrix.weights, dtype=torch.float64)
            if self.iterations:
                distances = matrix.squared_distances()
                weights = weiszfeld(distances, weights, self.iterations, self.smallest_distance)
            return matrix.combination(weights.tolist())


class GeometricMedian(Composition):
    """z = sum b_k D_k / sum b_k, b_k = p_k / max(nu, ||D_k - z||), repeated; x <- x + z (1912.13445, Algorithm 2).

    No iterations are FedAvg. Needs all updates at once: they wait in a file, memory holds a few adapters.

    Args:
        iterations: how often.
        smallest_distance: nu.
        weighting: see `FedAvg`.
    """

    def __init__(
        self,
        iterations: Annotated[int, Field(ge=0, description="Iterations of Weiszfeld's algorithm, 0: the mean.")] = 8,
        smallest_distance: Annotated[
            float, Field(gt=0, description="Distances to the median below this count as this.")
        ] = 1e-6,
        weighting: Weighting = "examples",
    ) -> None:
        super().__init__(GeometricMedianRule(iterations, smallest_distance, weighting))
