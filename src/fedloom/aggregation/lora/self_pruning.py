"""HetLoRA's clients lower their own rank (Cho et al., arXiv 2401.06432, rank self-pruning)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule, Vectors
from fedloom.aggregation.lora.factors import ENDINGS, lora_layers

# In a client's memory, "tail of A/<layer>" holds where A[c:] lies in a vector, "tail of B/<layer>" where B[:, c:] does.
TAIL_A, TAIL_B = "tail of A/", "tail of B/"


class SelfPruning(ClientRule):
    """Loss + lam sum_layers ||B[:, c:]||_F ||A[c:]||_F, c = max(r_min, floor(gamma r)); rank c where the sum fell.

    A client's rank r is the one it kept from its last round, at first received["rank"]. Its vectors hold factors of the
    highest rank, zero beyond its own. After a round in which the sum got smaller than it was before training, the tails
    are set to zero and c is kept as the rank.

    Args:
        gamma: share of the rank that pruning leaves, in (0, 1]; 1: no pruning.
        lam: weight of the loss term, >= 0.
        r_min: the lowest rank.
    """

    def __init__(self, gamma: float, lam: float, r_min: int) -> None:
        self.gamma = gamma
        self.lam = lam
        self.r_min = r_min

    def begin(self, client: ClientRound) -> Vectors:
        """Find the tails and how large they are; see `ClientRule`."""
        given = client.kept["rank"] if "rank" in client.kept else client.received["rank"]
        rank = int(given)
        # What a product such as 0.99 * 100 lacks of a whole number by rounding must not cost a rank.
        pruned = min(rank, max(self.r_min, math.floor(self.gamma * rank + 1e-9)))
        memory = {"rank": torch.tensor([float(rank)]), "pruned": torch.tensor([float(pruned)])}
        if pruned < rank:
            positions = client.views(torch.arange(client.start.numel(), device=client.start.device))
            for layer in lora_layers(positions):
                memory[TAIL_A + layer] = positions[layer + ENDINGS["A"]][pruned:rank].reshape(-1)
                memory[TAIL_B + layer] = positions[layer + ENDINGS["B"]][:, pruned:rank].reshape(-1)
        memory["before"] = _tail_sum(client.start, memory)
        return memory

    def before_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors) -> None:
        """Add the loss term's gradient: each tail's direction times the other tail's norm; see `ClientRule`."""
        if not self.lam:
            return
        for a, b in _tails(memory):
            tail_a, tail_b = values[a], values[b]
            # A tail that is zero, whose norm has no gradient, has the direction zero here, one of its subgradients.
            gradients[a] += self.lam * tail_b.norm() * normalize(tail_a, dim=0)
            gradients[b] += self.lam * tail_a.norm() * normalize(tail_b, dim=0)

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """Prune where the tails got smaller; see `ClientRule`."""
        rank = memory["rank"]
        if bool(_tail_sum(values, memory) < memory["before"]):
            rank = memory["pruned"]
            for a, b in _tails(memory):
                values[a] = 0.0
                values[b] = 0.0
        return ClientFinish(kept={"rank": rank}, metrics={"rank": float(rank)})


def _tails(memory: Vectors) -> Iterator[tuple[Tensor, Tensor]]:
    for name, positions in memory.items():
        if name.startswith(TAIL_A):
            yield positions, memory[TAIL_B + name.removeprefix(TAIL_A)]


def _tail_sum(values: Tensor, memory: Vectors) -> Tensor:
    """sum_layers ||B[:, c:]||_F ||A[c:]||_F, fp64; zero where there is nothing to prune."""
    products = [values[a].double().norm() * values[b].double().norm() for a, b in _tails(memory)]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)
