"""RoLoRA: the factors take turns (Chen et al., arXiv 2502.01755)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, Factors, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.factor_mean import factor_mean
from fedloom.aggregation.mean import added


class RoLora(Algorithm):
    """B <- sum_k p_k B_k in odd rounds, A <- sum_k p_k A_k in even ones (arXiv 2502.01755).

    The factor whose turn it is not is the same at every client, so the mean of products is exact in every round. A
    round without an acceptable update does not count: its factor's turn comes again.

    Args:
        first: the factor of the first round.
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    def __init__(
        self,
        first: Annotated[
            Literal["A", "B"],
            Field(description="The factor trained in the first round; A gets no gradient while B is zero."),
        ] = "B",
        weighting: Weighting = "examples",
    ) -> None:
        self.first: Factors = first
        self.weighting = weighting

    def init(self, adapter: Tensors) -> State:
        """The number of rounds so far, int64 []; see `Algorithm`."""
        return {"round": torch.zeros((), dtype=torch.int64)}

    def trained(self, state: State) -> Factors:
        """The factor whose turn it is; see `Algorithm`."""
        if int(state["round"]) % 2 == 0:
            return self.first
        return "A" if self.first == "B" else "B"

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; updates hold the trained factor and what is no factor. See `Algorithm`."""
        delta = factor_mean(adapter, self.trained(state), updates, self.weighting)
        if delta is None:
            return dict(adapter), state
        return added(adapter, delta), {"round": state["round"] + 1}
