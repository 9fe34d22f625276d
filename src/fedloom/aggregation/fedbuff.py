"""FedBuff (Nguyen et al., arXiv 2106.06639, Algorithm 1): the server steps whenever its buffer of updates is full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update, update_weight
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.fedopt import ServerLearningRate
from fedloom.aggregation.folding import fold
from fedloom.aggregation.mean import StreamingMean, reported
from fedloom.aggregation.server_optimizers import ServerOptimizer

BufferWeighting = Annotated[
    Literal["count", "examples", "tokens", "uniform"],
    Field(description="Divide stale updates by their number, or by the sum of their weights, made smaller alike."),
]


class StaleMean:
    """An aggregation rule: the mean of s_k D_k, s_k = (1 + tau_k)^-a, tau_k versions old.

    Args:
        exponent: a.
        weighting: "count": 1/n sum_k s_k D_k; otherwise sum_k w_k s_k D_k / sum_k w_k s_k.
    """

    def __init__(self, exponent: float, weighting: BufferWeighting) -> None:
        self.exponent = exponent
        self.weighting = weighting

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """The mean of a buffer's updates; see `AggregationRule`."""
        return fold(updates, _StaleSums(reference, self.exponent, self.weighting)).mean()


class _StaleSums(StreamingMean):
    """sum_k w_k s_k D_k, over the count or over sum_k w_k s_k."""

    def __init__(self, reference: Tensors, exponent: float, weighting: BufferWeighting) -> None:
        super().__init__(reference, "uniform" if weighting == "count" else weighting)
        self._exponent = exponent
        self._by_count = weighting == "count"

    def weight(self, update: Update) -> float:
        freshness = self._freshness(update)
        return 1.0 if self._by_count else update_weight(update, self._weighting) * freshness

    def scale(self, update: Update) -> float:
        return self._freshness(update) if self._by_count else 1.0

    def _freshness(self, update: Update) -> float:
        staleness = reported(update.metrics, "staleness", at_least=0)
        return float((1 + staleness) ** -self._exponent)


class FedBuff(Composition):
    """x <- x + eta/K sum_k (1 + tau_k)^-a D_k, D_k from the version client k had (2106.06639, Algorithm 1).

    tau_k, how many versions ago that was, comes with an update as the metric "staleness". When a buffer is full, and
    who trains meanwhile, is the schedule's affair.

    Args:
        buffer_size: K, the updates of a step.
        staleness_exponent: a.
        server_learning_rate: eta.
        weighting: "count", or what updates are weighted by.
    """

    def __init__(
        self,
        buffer_size: Annotated[int, Field(ge=1, description="Updates that make a step of the server.")] = 10,
        staleness_exponent: Annotated[
            float, Field(ge=0, description="Exponent a of an update's factor (1 + staleness)^-a, 0: none.")
        ] = 0.5,
        server_learning_rate: ServerLearningRate = 1.0,
        weighting: BufferWeighting = "count",
    ) -> None:
        super().__init__(StaleMean(staleness_exponent, weighting), ServerOptimizer(server_learning_rate))
        self.buffer_size = buffer_size
