"""FedNova (Wang et al., arXiv 2007.07481): clients that make more steps than others do not pull harder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update, Weighting
from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule, Vectors
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.folding import fold
from fedloom.aggregation.mean import StreamingMean, reported


class StepCounter(ClientRule):
    """Reports a_k as "normalizer": how far gradients of 1 would have moved a client, in units of the learning rate.

    That is the number of steps, and (K - rho (1 - rho^K) / (1 - rho)) / (1 - rho) for SGD with momentum rho.
    """

    def begin(self, client: ClientRound) -> Vectors:
        """Start at rest; see `ClientRule`."""
        momentum = torch.tensor(client.momentum, dtype=torch.float64)
        return {"momentum": momentum, "velocity": torch.zeros_like(momentum), "distance": torch.zeros_like(momentum)}

    def after_step(self, values: Tensor, memory: Vectors) -> None:
        """Make the step of a gradient of 1; see `ClientRule`."""
        memory["velocity"].mul_(memory["momentum"]).add_(1)
        memory["distance"].add_(memory["velocity"])

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """Report the distance; see `ClientRule`."""
        return ClientFinish(metrics={"normalizer": float(memory["distance"])})


class FedNova(Composition):
    """x <- x + (sum_k p_k a_k) sum_k p_k D_k / a_k, a_k from client k's steps (2007.07481, section 4).

    Equal a_k give FedAvg.

    Args:
        weighting: see `FedAvg`.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        super().__init__(NormalizedMean(weighting), client=StepCounter())


class NormalizedMean:
    """An aggregation rule: (sum_k p_k a_k) sum_k p_k D_k / a_k, a_k as the clients report it.

    Args:
        weighting: what p_k is proportional to.
    """

    def __init__(self, weighting: Weighting) -> None:
        self.weighting = weighting

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """The normalised mean; see `AggregationRule`."""
        sums = fold(updates, _NormalizedSums(reference, self.weighting))
        mean = sums.mean()
        return None if mean is None else {name: value.mul_(sums.mean_normalizer) for name, value in mean.items()}


class _NormalizedSums(StreamingMean):
    """sum_k w_k D_k / a_k, and besides sum_k w_k a_k under "normalizers"."""

    def __init__(self, reference: Tensors, weighting: Weighting) -> None:
        super().__init__(reference, weighting)
        self._normalizers = torch.zeros((), dtype=torch.float64)

    @property
    def sums(self) -> dict[str, Tensor]:
        return {**super().sums, "normalizers": self._normalizers}

    @property
    def mean_normalizer(self) -> float:
        return float(self._normalizers) / self.total

    def scale(self, update: Update) -> float:
        return 1 / float(update.metrics["normalizer"])

    def add(self, update: Update) -> None:
        # A client has made one step at least.
        normalizer = reported(update.metrics, "normalizer", at_least=1)
        super().add(update)
        self._normalizers += self.weight(update) * normalizer
