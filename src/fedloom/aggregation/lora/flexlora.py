"""FlexLoRA: the mean of products, redistributed by its SVD (Bai et al., arXiv 2402.11505)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.contributions import contributions
from fedloom.aggregation.lora.factors import (
    Pair,
    ProductSvd,
    lora_layers,
    named,
    product_svd,
    rank_of,
    with_rank,
)
from fedloom.aggregation.mean import added


class FlexLora(Algorithm):
    """sum_k p_k B_k A_k = U S V'; B <- U_r S_r, A <- V_r' (arXiv 2402.11505).

    Clients' ranks may differ; off by the singular values beyond the adapter's rank, so exact where there are none. The
    product is decomposed through its factors and never formed. LoRA's scale, one for all ranks, is no part of it: the
    clients apply it to what they are sent.

    Args:
        singular_values: whether S goes into B as in the paper ("left"), or its square root into both factors ("sqrt":
            balanced, but where S is 0 neither factor gets a gradient again).
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    mixed_ranks = True

    def __init__(
        self,
        singular_values: Annotated[
            Literal["left", "sqrt"],
            Field(description="Where the singular values go: into B, or their square roots into both factors."),
        ] = "left",
        weighting: Weighting = "examples",
    ) -> None:
        self.singular_values = singular_values
        self.weighting = weighting

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        arrived = contributions(adapter, updates, self.weighting, self.mixed_ranks)
        if arrived is None:
            return dict(adapter), state
        result = added(adapter, arrived.heads)
        for layer in lora_layers(adapter):
            rank = rank_of(adapter, layer)
            svd = product_svd(arrived.mean_product(layer), rank)
            # Where a round's ranks add up to less than the adapter's, zeros fill it up.
            for name, value in named(layer, with_rank(self._factors(svd), rank)).items():
                result[name] = value.to(adapter[name].dtype)
        return result, state

    def _factors(self, svd: ProductSvd) -> Pair:
        if self.singular_values == "left":
            return Pair(svd.vh, svd.u * svd.s)
        root = svd.s.sqrt()
        return Pair(root[:, None] * svd.vh, svd.u * root)
