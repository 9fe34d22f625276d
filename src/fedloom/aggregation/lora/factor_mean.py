"""The mean over the factor that clients send: all that algorithms need which keep the other factor equal or at home."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedloom.aggregation.base import Factors, Tensors, Update, Weighting
from fedloom.aggregation.folding import fold
from fedloom.aggregation.lora.factors import lora_layers, with_factors
from fedloom.aggregation.mean import StreamingMean


def factor_mean(
    adapter: Tensors, factors: Factors, updates: Iterable[Update], weighting: Weighting
) -> dict[str, Tensor] | None:
    """The weighted mean update of some factors, and of everything that is no factor.

    Args:
        adapter: the global adapter.
        factors: those that the updates hold.
        updates: the clients' updates; they are folded where they are.
        weighting: see `update_weight`.

    Returns:
        sum_k p_k D_k, fp64, under the names of what was sent; None where no update is acceptable.
    """
    lora_layers(adapter)  # Without factors nothing would be left of these rules but FedAvg; that is an error.
    return fold(updates, StreamingMean(with_factors(adapter, factors), weighting)).mean()
