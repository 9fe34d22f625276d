"""Ditto (Li et al., arXiv 2012.04221, Algorithm 1): besides FedAvg, every client trains an adapter of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedloom.aggregation.base import Weighting
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.fedprox import ProximalTerm
from fedloom.aggregation.mean import WeightedMean


class Ditto(Composition):
    """FedAvg; besides, v_k <- v_k - l (g(v_k) + lam (v_k - x)), v_k staying with client k (2012.04221, Algorithm 1).

    x is what the round began with. Clients compute twice as much.

    Args:
        lam: how strongly a client's own adapter is held to the shared one.
        weighting: see `FedAvg`.
    """

    personal_adapters = True

    def __init__(
        self,
        lam: Annotated[
            float, Field(ge=0, description="Factor of a personal adapter's pull to the shared one, 0: none.")
        ] = 0.1,
        weighting: Weighting = "examples",
    ) -> None:
        super().__init__(WeightedMean(weighting))
        self.personal = ProximalTerm(lam)
