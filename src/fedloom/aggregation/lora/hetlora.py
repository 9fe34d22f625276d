"""HetLoRA: clients of different ranks, padded with zeros and weighed by norm (Cho et al., arXiv 2401.06432)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.contributions import Contributions, contributions
from fedloom.aggregation.lora.factors import lora_layers, mean_pair, named, product_norm, rank_of, with_rank
from fedloom.aggregation.lora.self_pruning import SelfPruning
from fedloom.aggregation.mean import added
from fedloom.errors import UserError


class HetLora(Algorithm):
    """A <- sum_k w_k A_k, B <- sum_k w_k B_k, zero-padded, w_k ~ ||B_k A_k|| (arXiv 2401.06432).

    Not exact: factors are averaged, not products. Clients of all ranks share one scale (our choice), so that a factor
    means the same to each of them.

    Args:
        weighting: w_k by the norm of a client's product, over all layers ("norms") or each layer on its own
            ("layer_norms"), uniform where all norms are zero; or as in FedAvg. What is no factor follows FedAvg: by
            training examples where norms weigh the factors.
        gamma: share of its rank that a client may prune itself to; 1: no pruning.
        lam: weight of the term in a client's loss that shrinks what could be pruned.
        r_min: the lowest rank.
    """

    mixed_ranks = True

    def __init__(
        self,
        weighting: Annotated[
            Literal["norms", "layer_norms", "examples", "tokens", "uniform"],
            Field(description="A client's weight: the norm of its product, of each layer's, or as in FedAvg."),
        ] = "norms",
        gamma: Annotated[float, Field(gt=0, le=1, description="Share of its rank a client may be pruned to.")] = 0.99,
        lam: Annotated[float, Field(ge=0, description="Weight of the loss term that shrinks the tails.")] = 0.01,
        r_min: Annotated[int, Field(ge=1, description="No client is pruned below this rank.")] = 1,
    ) -> None:
        if gamma == 1 and lam:
            raise UserError(
                "federation.algorithm.lam: has no effect where gamma is 1, nothing being pruned: set it to 0"
            )
        self.weighting = weighting
        self.client = SelfPruning(gamma, lam, r_min)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        by_counts: Weighting = "examples"
        if self.weighting != "norms" and self.weighting != "layer_norms":
            by_counts = self.weighting
        arrived = contributions(adapter, updates, by_counts, self.mixed_ranks)
        if arrived is None:
            return dict(adapter), state
        result = added(adapter, arrived.heads)
        layers = lora_layers(adapter)
        for layer, weights in zip(layers, self._weights(arrived, layers), strict=True):
            rank = rank_of(adapter, layer)
            mean = mean_pair([with_rank(pair, rank) for pair in arrived.pairs(layer)], weights)
            for name, value in named(layer, mean).items():
                result[name] = value.to(adapter[name].dtype)
        return result, state

    def _weights(self, arrived: Contributions, layers: Sequence[str]) -> list[list[float]]:
        """The clients' weights in every layer."""
        if self.weighting != "norms" and self.weighting != "layer_norms":
            return [arrived.counts for _ in layers]
        norms = [[product_norm(pair) for pair in arrived.pairs(layer)] for layer in layers]
        if self.weighting == "layer_norms":
            return [_shares(of_layer) for of_layer in norms]
        return [_shares([math.hypot(*of_client) for of_client in zip(*norms, strict=True)])] * len(layers)


def _shares(norms: Sequence[float]) -> list[float]:
    total = math.fsum(norms)
    return [norm / total for norm in norms] if total else [1 / len(norms)] * len(norms)
