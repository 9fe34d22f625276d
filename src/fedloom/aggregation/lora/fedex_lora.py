"""FedEx-LoRA: means of both factors, and their error in the base model (Singhal et al., arXiv 2410.09432)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, FromRun, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.base_change import base_change, no_change, with_change
from fedloom.aggregation.lora.contributions import contributions
from fedloom.aggregation.lora.factors import Pair, lora_layers, mean_pair, named, product_svd, weighted_sum
from fedloom.aggregation.mean import added


class FedExLora(Algorithm):
    """A <- Abar, B <- Bbar, W <- W + s (sum_k p_k B_k A_k - Bbar Abar) (arXiv 2410.09432).

    Exact unless the residual is truncated. It is kept as factors of inner size (clients of the round - 1) times r.

    Args:
        scale: s, LoRA's alpha / r.
        residual_rank: the rank each round's residual is truncated to, by its SVD; None: not at all.
        weighting: what p_k is proportional to: 1 as in the paper, training examples, or trained label tokens.
    """

    changes_base = True

    def __init__(
        self,
        scale: Annotated[float, FromRun, Field(gt=0, description="LoRA's alpha / rank.")],
        residual_rank: Annotated[
            int | None,
            Field(gt=0, description="Rank that the residual of a round is truncated to; null keeps it exact."),
        ] = None,
        weighting: Weighting = "uniform",
    ) -> None:
        self.scale = scale
        self.residual_rank = residual_rank
        self.weighting = weighting

    def init(self, adapter: Tensors) -> State:
        """What was added to the base; see `Algorithm`."""
        return no_change(adapter)

    def sent(self, state: State) -> dict[str, Tensor]:
        """The base's change; see `Algorithm`."""
        return base_change(state)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        arrived = contributions(adapter, updates, self.weighting, self.mixed_ranks)
        if arrived is None:
            return dict(adapter), state
        result = added(adapter, arrived.heads)
        residuals: dict[str, Pair] = {}
        for layer in lora_layers(adapter):
            pairs = arrived.pairs(layer)
            mean = mean_pair(pairs, arrived.weights)
            for name, value in named(layer, mean).items():
                result[name] = value.to(adapter[name].dtype)
            if len(pairs) > 1:
                residuals[layer] = self._kept(residual(pairs, arrived.weights, mean))
        return result, with_change(state, residuals)

    def _kept(self, exact: Pair) -> Pair:
        """What goes into the base of a residual: scaled, and truncated where that is asked for."""
        if self.residual_rank is None or self.residual_rank >= exact.rank:
            return Pair(self.scale * exact.a, exact.b)
        u, s, vh = product_svd(exact, self.residual_rank)
        return Pair(self.scale * vh, u * s)


def residual(pairs: Sequence[Pair], weights: Sequence[float], mean: Pair) -> Pair:
    """sum_k p_k B_k A_k - Bbar Abar without loss, through deviations alone, which are small where clients agree.

    As sum_k p_k (B_k - Bbar) = 0, it is sum_k (B_k - Bbar) p_k (A_k - A_n), where the last client's term vanishes.

    Args:
        pairs: the clients' factors, fp64, of one rank r.
        weights: p_k.
        mean: Abar and Bbar.

    Returns:
        B of columns [B_k - Bbar], A of rows [p_k (A_k - A_n)], k < n.
    """
    last = pairs[-1]
    deviations = [Pair(pair.a - last.a, pair.b - mean.b) for pair in pairs[:-1]]
    return weighted_sum(deviations, weights[:-1])
