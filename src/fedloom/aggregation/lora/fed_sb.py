"""Fed-SB: a square matrix between two frozen factors (Singhal et al., arXiv 2502.15436)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fedloom.aggregation.base import Algorithm, Factors, State, Tensors, Update, Weighting
from fedloom.aggregation.lora.factor_mean import factor_mean
from fedloom.aggregation.lora.factors import ENDINGS, Pair, lora_layers, pair_of, product_svd, rank_of
from fedloom.aggregation.mean import added
from fedloom.errors import UserError

# What is trained in the first rounds, where B starts at zero; R afterwards.
WARM_UP: tuple[Factors, ...] = ("B", "A")


class FedSb(Algorithm):
    """R <- sum_k p_k R_k in dW = s B R A, A and B frozen and equal (arXiv 2502.15436), so it is exact.

    The adapter holds "<layer>.lora_R.weight" [r, r] beside A and B. A product with B = 0 never moves, so an adapter as
    LoRA starts has two warm-up rounds: B is trained with A frozen, then A with an orthonormal basis of B in its place.
    Both means are exact too, and the singular value decomposition of what they lead to gives B = U, R = S, A = V', the
    very same product. The paper starts from that of the clients' first gradient instead (our choice: every round is an
    ordinary one, and no dense gradient is needed).

    Args:
        weighting: what p_k is proportional to: training examples, trained label tokens, or 1.
    """

    def __init__(self, weighting: Weighting = "examples") -> None:
        self.weighting = weighting

    def prepared(self, adapter: Tensors) -> dict[str, Tensor]:
        """With R = 1, so that B R A is what A and B are; see `Algorithm`."""
        squares = {
            layer + ENDINGS["R"]: torch.eye(adapter[layer + ENDINGS["A"]].shape[0]) for layer in lora_layers(adapter)
        }
        return {**adapter, **squares}

    def init(self, adapter: Tensors) -> State:
        """Rounds of warm-up that are done; checks that the adapter has square matrices. See `Algorithm`."""
        for layer in lora_layers(adapter):
            name, rank = layer + ENDINGS["R"], rank_of(adapter, layer)
            if name not in adapter or adapter[name].shape != (rank, rank):
                found = list(adapter[name].shape) if name in adapter else "missing"
                raise UserError(f"adapter: {name} is {found}, must be [{rank}, {rank}] (fed_sb)")
        starts = any(bool(adapter[layer + ENDINGS["B"]].any()) for layer in lora_layers(adapter))
        return {"warm_up": torch.tensor([len(WARM_UP) if starts else 0])}

    def trained(self, state: State) -> Factors:
        """R, after the warm-up; see `Algorithm`."""
        done = int(state["warm_up"])
        return WARM_UP[done] if done < len(WARM_UP) else "R"

    def fetched(self, state: State) -> Factors:
        """R, after the warm-up: clients fetch the frozen factors once, which is not counted; see `Algorithm`."""
        return "R" if self.trained(state) == "R" else "both"

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; updates hold the factor trained and what is no factor. See `Algorithm`."""
        factor = self.trained(state)
        delta = factor_mean(adapter, factor, updates, self.weighting)
        if delta is None:
            return dict(adapter), state
        after = added(adapter, delta)
        if factor == "R":
            return after, state
        for layer in lora_layers(after):
            for ending, value in _orthonormal(pair_of(after, layer), keep_square=factor == "A").items():
                after[layer + ENDINGS[ending]] = value.to(adapter[layer + ENDINGS[ending]].dtype)
        return after, {"warm_up": state["warm_up"] + 1}


def _orthonormal(pair: Pair, keep_square: bool) -> dict[str, Tensor]:
    """The same product with orthonormal columns of B: R = 1 and the rest in A, or the singular values in R."""
    found = product_svd(pair)
    if keep_square:
        return {"B": found.u, "R": torch.diag(found.s), "A": found.vh}
    return {"B": found.u, "A": found.s[:, None] * found.vh}
