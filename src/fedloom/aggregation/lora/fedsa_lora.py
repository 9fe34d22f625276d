"""FedSA-LoRA: share A, keep B (Guo et al., arXiv 2410.01463)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import Algorithm, Factors, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.factor_mean import factor_mean
from fedloom.aggregation.mean import added


class FedSaLora(Algorithm):
    """A <- sum_k p_k A_k; both factors are trained, B_k stays with client k (arXiv 2410.01463).

    There is no global product: client k's model is (Abar, B_k), and the global adapter's B stays zero.

    Args:
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    shared: Factors = "A"

    def __init__(self, weighting: Weighting = "examples") -> None:
        self.weighting = weighting

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; updates hold A and what is no factor. See `Algorithm`."""
        delta = factor_mean(adapter, self.shared, updates, self.weighting)
        return (dict(adapter), state) if delta is None else (added(adapter, delta), state)
