"""LoRA's factors and their product, which is never formed: sums, norms and SVDs of [out, in] through small matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloom.aggregation.base import Factors, Tensors
from fedloom.errors import UserError

# How the names of a layer's factors end; R is Fed-SB's square matrix [r, r] between the two.
ENDINGS = {"A": ".lora_A.weight", "B": ".lora_B.weight", "R": ".lora_R.weight"}


class Pair(NamedTuple):
    """A matrix B A [out, in] of rank r at most, as its factors.

    Args:
        a: [r, in].
        b: [out, r].
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """The inner size r."""
        return int(self.a.shape[0])


class ProductSvd(NamedTuple):
    """The thin SVD U diag(S) V' of a product, fp64.

    Args:
        u: [out, k]; of each column, the entry that is largest in magnitude is positive.
        s: [k], descending.
        vh: [k, in].
    """

    u: Tensor
    s: Tensor
    vh: Tensor


def lora_layers(adapter: Tensors) -> list[str]:
    """The layers with LoRA factors.

    Args:
        adapter: named tensors.

    Returns:
        Names without the factors' endings, in the adapter's order.

    Raises:
        UserError: where a factor lacks the other, or there are none.
    """
    layers = [name.removesuffix(ENDINGS["A"]) for name in adapter if name.endswith(ENDINGS["A"])]
    others = [name.removesuffix(ENDINGS["B"]) for name in adapter if name.endswith(ENDINGS["B"])]
    if odd := sorted(set(layers) ^ set(others)):
        raise UserError(f"adapter: layer {odd[0]!r} has only one of the factors A and B, must have both")
    if not layers:
        raise UserError(f"adapter: no tensor is named '<layer>{ENDINGS['A']}', so it has no LoRA layer to aggregate")
    return layers


def factor_of(name: str) -> str | None:
    """Which factor a tensor is.

    Args:
        name: of a tensor of an adapter.

    Returns:
        "A", "B", "R", or None for a tensor that is no factor, such as a trained head.
    """
    return next((factor for factor, ending in ENDINGS.items() if name.endswith(ending)), None)


def with_factors(adapter: Tensors, factors: Factors) -> dict[str, Tensor]:
    """What is left of an adapter where only some factors are trained or sent.

    Args:
        adapter: named tensors.
        factors: which; "both" means A and B.

    Returns:
        These factors and everything that is no factor.
    """
    wanted = {None, "A", "B"} if factors == "both" else {None, factors}
    return {name: value for name, value in adapter.items() if factor_of(name) in wanted}


def heads_of(adapter: Tensors) -> dict[str, Tensor]:
    """What is trained beside the factors, and follows FedAvg."""
    return {name: value for name, value in adapter.items() if factor_of(name) is None}


def rank_of(adapter: Tensors, layer: str) -> int:
    """The rank r of a layer's factors."""
    return int(adapter[layer + ENDINGS["A"]].shape[0])


def pair_of(adapter: Tensors, layer: str) -> Pair:
    """A layer's factors.

    Args:
        adapter: named tensors.
        layer: one of `lora_layers`.

    Returns:
        The factors, fp64.
    """
    return Pair(adapter[layer + ENDINGS["A"]].double(), adapter[layer + ENDINGS["B"]].double())


def named(layer: str, pair: Pair) -> dict[str, Tensor]:
    """A layer's factors under PEFT's names."""
    return {layer + ENDINGS["A"]: pair.a, layer + ENDINGS["B"]: pair.b}


def truncated(adapter: Tensors, rank: int) -> dict[str, Tensor]:
    """What a client of a lower rank is sent: the first rows of every A and the first columns of every B.

    Args:
        adapter: named tensors.
        rank: of the client; factors of no higher rank stay as they are.

    Returns:
        Views of the adapter's tensors.
    """
    cuts = {"A": lambda value: value[:rank], "B": lambda value: value[:, :rank]}
    return {name: cuts.get(factor_of(name) or "", lambda value: value)(value) for name, value in adapter.items()}


def with_rank(pair: Pair, rank: int) -> Pair:
    """Bring a pair to a rank: the first rows of A and columns of B, and zeros where there are fewer.

    Args:
        pair: factors.
        rank: the inner size wanted.

    Returns:
        Factors [rank, in] and [out, rank].
    """
    a, b = pair.a[:rank], pair.b[:, :rank]
    missing = rank - a.shape[0]
    if missing <= 0:
        return Pair(a, b)
    return Pair(torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing)))


def weighted_sum(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """sum_k w_k B_k A_k as one pair of the summed rank.

    Args:
        pairs: factors of matrices of one shape; ranks may differ.
        weights: w_k; they go into A only.

    Returns:
        A of rows [w_k A_k], B of columns [B_k].
    """
    rows = [pair.a * weight for pair, weight in zip(pairs, weights, strict=True)]
    return Pair(torch.cat(rows), torch.cat([pair.b for pair in pairs], dim=1))


def mean_pair(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """The means of the factors, each on its own; their product is not the mean of the products.

    Args:
        pairs: factors of one rank.
        weights: w_k, > 0; whole numbers leave nothing to round but the quotient.

    Returns:
        (sum_k w_k A_k, sum_k w_k B_k) / sum_k w_k.
    """
    weighted, total = list(zip(pairs, weights, strict=True)), math.fsum(weights)
    return Pair(
        torch.stack([weight * pair.a for pair, weight in weighted]).sum(0) / total,
        torch.stack([weight * pair.b for pair, weight in weighted]).sum(0) / total,
    )


def product_norm(pair: Pair) -> float:
    """||B A||_F from the triangular factors of both.

    Gram matrices, sum((B'B) * (AA')), would do as well for one client's product; but a difference of two products is a
    pair, too, and in squares its small norm drowns at 1e-8 of theirs.

    Args:
        pair: factors.

    Returns:
        The norm, computed in fp64.
    """
    if not pair.rank:
        return 0.0
    left, right = (torch.linalg.qr(factor.double(), mode="r").R for factor in (pair.b, pair.a.T))
    return float(torch.linalg.norm(left @ right.T))


def product_svd(pair: Pair, rank: int | None = None) -> ProductSvd:
    """The SVD of B A through thin QRs of both factors: at most r x r numbers are decomposed.

    Args:
        pair: factors, r of at least 1.
        rank: keep this many singular values, the largest: the best approximation of that rank; None: all.

    Returns:
        k = min(r, out, in, rank) singular values with their vectors.
    """
    left, left_core = torch.linalg.qr(pair.b.double())
    right, right_core = torch.linalg.qr(pair.a.double().T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    u, s, vh = left @ u[:, :rank], s[:rank], vh[:rank] @ right.T
    signs = torch.where(u.gather(0, u.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0).to(u.dtype)
    return ProductSvd(u.mul_(signs), s, vh.mul_(signs.T))
