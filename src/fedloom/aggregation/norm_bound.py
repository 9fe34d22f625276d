"""Norm bounding (Sun et al., arXiv 1911.07963): no client's update is longer than a bound."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update, Weighting
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.folding import fold
from fedloom.aggregation.mean import PIECE, StreamingMean


def norm_of(tensors: Tensors) -> float:
    """The Euclidean norm of all entries together, in fp64.

    Args:
        tensors: in any floating-point format.

    Returns:
        The norm.
    """
    total = 0.0
    # One buffer for all pieces: memory fetched anew for each would cost several times the arithmetic.
    buffer: Tensor | None = None
    for value in tensors.values():
        for piece in value.reshape(-1).split(PIECE):
            if buffer is None:
                buffer = torch.empty(PIECE, dtype=torch.float64, device=piece.device)
            wide = buffer[: len(piece)].copy_(piece)
            total += float(torch.dot(wide, wide))
    return math.sqrt(total)


class BoundedMean:
    """An aggregation rule: sum_k p_k D_k min(1, C / ||D_k||), one update in memory at a time.

    Args:
        bound: C.
        weighting: what p_k is proportional to.
    """

    def __init__(self, bound: float, weighting: Weighting) -> None:
        self.bound = bound
        self.weighting = weighting

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """The mean of a round's bounded updates; see `AggregationRule`."""
        return fold(updates, _BoundedSums(reference, self.weighting, self.bound)).mean()


class _BoundedSums(StreamingMean):
    """sum_k w_k D_k min(1, C / ||D_k||)."""

    def __init__(self, reference: Tensors, weighting: Weighting, bound: float) -> None:
        super().__init__(reference, weighting)
        self._bound = bound

    def scale(self, update: Update) -> float:
        norm = norm_of(update.delta)
        return self._bound / norm if norm > self._bound else 1.0


class NormBound(Composition):
    """x <- x + sum_k p_k D_k min(1, C / ||D_k||), the norm over the whole adapter (1911.07963, section 3).

    A bound above all norms is FedAvg.

    Args:
        bound: C.
        weighting: see `FedAvg`.
    """

    def __init__(
        self,
        bound: Annotated[float, Field(gt=0, description="The longest that a client's update may be (Euclidean norm).")],
        weighting: Weighting = "examples",
    ) -> None:
        super().__init__(BoundedMean(bound, weighting))
