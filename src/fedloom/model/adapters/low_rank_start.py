"""The factors that LoRA starts from after sparse fine-tuning: the second stage of SLoRA (arXiv 2308.06522)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedloom.aggregation.lora.factors import ENDINGS, Pair, lora_layers, named, product_svd
from fedloom.model.adapters.sparse import VALUES, dense
from fedloom.model.grouped_adapter import PREFIX, Adapter
from fedloom.model.lanes import Lanes


def low_rank_start(
    values: Mapping[str, Tensor], positions: Mapping[str, Tensor], fresh: Adapter, scale: float
) -> Adapter:
    """LoRA's factors of the best approximations of sparse changes, layer by layer.

    Args:
        values: "<layer>.sparse.values" [entries] of each layer.
        positions: by layer, int64 [entries], in the weight row by row.
        fresh: LoRA's A [rank, in] and B [out, rank] of the same layers, as LoRA starts; says rank and sizes.
        scale: what the product of the factors is multiplied by.

    Returns:
        A and B of each layer, fp32, under PEFT's names.
    """

    def factors(layer: str) -> dict[str, Tensor]:
        a, b = (fresh[layer + ENDINGS[factor]] for factor in "AB")
        bare = layer.removeprefix(PREFIX)
        change = dense(values[bare + VALUES].double(), positions[bare], (b.shape[0], a.shape[1]))
        return named(layer, best_factors(change, scale, a))

    # A layer has one thread: with more of them the decomposition's last bits would depend on their number.
    lanes = Lanes(torch.get_num_threads(), torch.device("cpu"))
    adapter: Adapter = {}
    for pair in lanes.map(factors, lora_layers(fresh)):
        adapter |= pair
    return adapter


def best_factors(change: Tensor, scale: float, fresh: Tensor) -> Pair:
    """Factors of which scale * B A is the best approximation of a matrix by that rank (Eckart and Young).

    With the singular value decomposition U diag(S) V' of change / scale it is B = U_r sqrt(S_r), A = sqrt(S_r) V_r'.
    That each factor gets the square root is our choice: both then have gradients of like size. Where the change has a
    lower rank, both would be zero, and stay so: there A keeps its fresh rows, and B is zero, as LoRA starts.

    Args:
        change: [out, in].
        scale: what the product of the factors is multiplied by.
        fresh: an A [rank, in] as LoRA starts.

    Returns:
        A [rank, in] and B [out, rank], fp32.
    """
    change = change.double() / scale
    outputs, inputs = change.shape
    # As a product with an identity: then the smaller side alone is decomposed.
    if outputs <= inputs:
        pair = Pair(change, torch.eye(outputs, dtype=change.dtype))
    else:
        pair = Pair(torch.eye(inputs, dtype=change.dtype), change)
    found = product_svd(pair, len(fresh))
    # Singular values below it are nothing but rounding.
    kept = int((found.s > found.s[0] * max(change.shape) * torch.finfo(change.dtype).eps).sum())
    root = found.s[:kept].sqrt()
    a, b = fresh.clone(), torch.zeros(outputs, len(fresh))
    a[:kept], b[:, :kept] = root[:, None] * found.vh[:kept], found.u[:, :kept] * root
    return Pair(a, b)
