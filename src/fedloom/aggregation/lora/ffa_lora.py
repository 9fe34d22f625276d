"""FFA-LoRA: federated freeze A (Sun et al., arXiv 2403.12313)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import Algorithm, Factors, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.factor_mean import factor_mean
from fedloom.aggregation.mean import added


class FfaLora(Algorithm):
    """B <- sum_k p_k B_k, A stays what it was drawn as (arXiv 2403.12313), so the mean of products is exact.

    Args:
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        self.weighting = weighting

    def trained(self, state: State) -> Factors:
        """B only; see `Algorithm`."""
        return "B"

    def fetched(self, state: State) -> Factors:
        """B only: A follows from the run's seed; see `Algorithm`."""
        return "B"

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; updates hold B and what is no factor. See `Algorithm`."""
        delta = factor_mean(adapter, self.trained(state), updates, self.weighting)
        return (dict(adapter), state) if delta is None else (added(adapter, delta), state)
