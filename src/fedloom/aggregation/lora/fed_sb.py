"""Fed-SB: a square matrix between two frozen factors (Singhal et al., arXiv 2502.15436)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import Algorithm, Factors, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.factor_mean import factor_mean
from fedloom.aggregation.lora.factors import ENDINGS, lora_layers
from fedloom.aggregation.mean import added
from fedloom.errors import UserError


class FedSb(Algorithm):
    """R <- sum_k p_k R_k in dW = s B R A, A and B frozen and equal (arXiv 2502.15436), so it is exact.

    The adapter holds "<layer>.lora_R.weight" [r, r] beside A and B; see `square` for where it starts and how it trains.

    Args:
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        self.weighting = weighting

    def init(self, adapter: Tensors) -> State:
        """No state; checks that the adapter has square matrices. See `Algorithm`."""
        for layer in lora_layers(adapter):
            name, rank = layer + ENDINGS["R"], adapter[layer + ENDINGS["A"]].shape[0]
            if name not in adapter or adapter[name].shape != (rank, rank):
                found = list(adapter[name].shape) if name in adapter else "missing"
                raise UserError(f"adapter: {name} is {found}, must be [{rank}, {rank}] (fed_sb)")
        return {}

    def trained(self, state: State) -> Factors:
        """R only; see `Algorithm`."""
        return "R"

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; updates hold R and what is no factor. See `Algorithm`."""
        delta = factor_mean(adapter, self.trained(state), updates, self.weighting)
        return (dict(adapter), state) if delta is None else (added(adapter, delta), state)
