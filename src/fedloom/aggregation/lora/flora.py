"""FLoRA: stacking, the base model learns (Wang et al., arXiv 2409.05976)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, FromRun, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.base_change import base_change, no_change, with_change
from fedloom.aggregation.lora.contributions import contributions
from fedloom.aggregation.lora.factors import ENDINGS, Pair, lora_layers, named
from fedloom.aggregation.mean import added
from fedloom.randomness import torch_generator


class Flora(Algorithm):
    """W <- W + [B_1 ... B_n][p_1 s A_1; ...; p_n s A_n] = W + sum_k p_k s B_k A_k (arXiv 2409.05976).

    Exact, whatever the clients' ranks. The adapter starts every round anew: A drawn, B zero.

    Args:
        scale: s, LoRA's alpha / r; one for all ranks.
        seed: of the draws of A.
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    changes_base = True
    mixed_ranks = True

    def __init__(
        self,
        scale: Annotated[float, FromRun, Field(gt=0, description="LoRA's alpha / rank.")],
        seed: Annotated[int, FromRun, Field(description="The recipe's seed.")],
        weighting: Weighting = "examples",
    ) -> None:
        self.scale = scale
        self.seed = seed
        self.weighting = weighting

    def init(self, adapter: Tensors) -> State:
        """What was added to the base, and the number of rounds so far, int64 []; see `Algorithm`."""
        return {**no_change(adapter), "round": torch.zeros((), dtype=torch.int64)}

    def sent(self, state: State) -> dict[str, Tensor]:
        """The base's change; see `Algorithm`."""
        return base_change(state)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        arrived = contributions(adapter, updates, self.weighting, self.mixed_ranks)
        if arrived is None:
            return dict(adapter), state
        layers = lora_layers(adapter)
        state = with_change(state, {layer: arrived.mean_product(layer, self.scale) for layer in layers})
        state["round"] = state["round"] + 1
        result = added(adapter, arrived.heads)
        for layer in layers:
            result |= self._fresh(adapter, layer, int(state["round"]))
        return result, state

    def _fresh(self, adapter: Tensors, layer: str, round_number: int) -> dict[str, Tensor]:
        """A drawn as before the first round, uniformly within sqrt(1 / in), and B zero."""
        name = layer + ENDINGS["A"]
        a, b = adapter[name], adapter[layer + ENDINGS["B"]]
        bound = math.sqrt(1 / a.shape[1])
        generator = torch_generator(self.seed, f"adapter {name}", round_number)
        drawn = torch.empty(a.shape).uniform_(-bound, bound, generator=generator)
        return named(layer, Pair(drawn.to(a.dtype), torch.zeros_like(b)))
