"""One round's updates for algorithms that need every client's factors: screened, in client-id order, ranks may differ.

Only A and B are kept until the round ends, as they came; what else is trained is folded into a mean at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedloom.aggregation.base import RejectedUpdate, Tensors, Update, Weighting, update_weight
from fedloom.aggregation.folding import accepted, check_delta
from fedloom.aggregation.lora.factors import (
    ENDINGS,
    Pair,
    factor_of,
    heads_of,
    lora_layers,
    pair_of,
    rank_of,
    truncated,
)
from fedloom.aggregation.mean import StreamingMean


@dataclass(frozen=True)
class Contribution:
    """A client's factors after its training.

    Args:
        client: its name.
        count: w_k.
        weight: p_k = w_k / sum_j w_j over the round's clients.
        sent: the factors it was sent, at its rank.
        delta: what it added to them.
    """

    client: str
    count: float
    weight: float
    sent: Tensors
    delta: Tensors

    def pair(self, layer: str) -> Pair:
        """A layer's factors y_k = x_k + D_k at the client's rank, fp64."""
        sent, delta = pair_of(self.sent, layer), pair_of(self.delta, layer)
        return Pair(sent.a + delta.a, sent.b + delta.b)


@dataclass(frozen=True)
class Contributions:
    """What a round's acceptable updates come to.

    Args:
        clients: their factors, in client-id order.
        heads: the mean update of what is no factor, fp64.
    """

    clients: list[Contribution]
    heads: dict[str, Tensor]

    @property
    def weights(self) -> list[float]:
        """The clients' p_k."""
        return [client.weight for client in self.clients]

    @property
    def counts(self) -> list[float]:
        """The clients' w_k: weights of a mean that is to be FedAvg's to the last bit."""
        return [client.count for client in self.clients]

    def pairs(self, layer: str) -> list[Pair]:
        """A layer's factors of every client; see `Contribution.pair`."""
        return [client.pair(layer) for client in self.clients]

    def mean_product(self, layer: str, scale: float = 1.0) -> Pair:
        """sum_k p_k s B_k A_k, filled in client by client: beside the sum, no factor is held in fp64.

        Args:
            layer: whose factors.
            scale: s.

        Returns:
            A of rows [p_k s A_k], B of columns [B_k], fp64.
        """
        a_name, b_name = layer + ENDINGS["A"], layer + ENDINGS["B"]
        ranks = [rank_of(client.delta, layer) for client in self.clients]
        inputs, outputs = self.clients[0].sent[a_name].shape[1], self.clients[0].sent[b_name].shape[0]
        # B by its columns, which is how its QR wants them.
        a = torch.empty(sum(ranks), inputs, dtype=torch.float64)
        b = torch.empty(sum(ranks), outputs, dtype=torch.float64).T
        for client, rows, columns in zip(self.clients, a.split(ranks), b.split(ranks, dim=1), strict=True):
            rows.copy_(client.sent[a_name]).add_(client.delta[a_name]).mul_(scale * client.weight)
            columns.copy_(client.sent[b_name]).add_(client.delta[b_name])
        return Pair(a, b)


def contributions(
    adapter: Tensors, updates: Iterable[Update], weighting: Weighting, mixed_ranks: bool
) -> Contributions | None:
    """Take in a round's updates.

    Args:
        adapter: the global adapter; of it, a client of rank r_k was sent `truncated(adapter, r_k)`.
        updates: the clients' updates, in any order.
        weighting: see `update_weight`.
        mixed_ranks: whether ranks below the adapter's are acceptable.

    Returns:
        The contributions, or None where no update is acceptable.
    """
    layers = lora_layers(adapter)
    heads = StreamingMean(heads_of(adapter), weighting)
    arrived: list[Contribution] = []

    def check(update: Update) -> None:
        update_weight(update, weighting)
        check_delta(update.delta, sent_to(update, adapter, layers) if mixed_ranks else adapter)

    for update in accepted(updates, check):
        heads.add(replace(update, delta=heads_of(update.delta)))
        sent = sent_to(update, adapter, layers) if mixed_ranks else adapter
        factors = {name: value for name, value in update.delta.items() if factor_of(name)}
        count = update_weight(update, weighting)
        arrived.append(Contribution(update.client, count, count, sent, factors))
    if not arrived:
        return None
    arrived.sort(key=lambda one: one.client)
    total = math.fsum(one.count for one in arrived)
    return Contributions([replace(one, weight=one.count / total) for one in arrived], heads.mean() or {})


def sent_to(update: Update, adapter: Tensors, layers: list[str]) -> dict[str, Tensor]:
    """What a client was sent, by the rank of the first layer it answers with.

    Args:
        update: the client's update; nothing else of it is checked here.
        adapter: the global adapter.
        layers: its LoRA layers.

    Returns:
        The adapter at the client's rank.

    Raises:
        RejectedUpdate: where there is no such rank.
    """
    first = layers[0] + ENDINGS["A"]
    highest = adapter[first].shape[0]
    if first not in update.delta:
        raise RejectedUpdate(f"delta: tensor names differ from the adapter's, e.g. {first!r}")
    rank = update.delta[first].shape[0] if update.delta[first].ndim else 0
    if not 1 <= rank <= highest:
        raise RejectedUpdate(f"delta: {first} has rank {rank}, must be from 1 to {highest}")
    return truncated(adapter, rank)
