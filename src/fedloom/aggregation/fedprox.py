"""FedProx (Li et al., arXiv 1812.06127, Algorithm 2): clients are held back to where they began."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Weighting
from fedloom.aggregation.client_rule import ClientRound, ClientRule, Vectors
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.mean import WeightedMean


class ProximalTerm(ClientRule):
    """g <- g + mu (y - x): the gradient of mu/2 ||y - x||^2, x being what the server sent.

    Args:
        mu: the term's factor.
    """

    def __init__(self, mu: float) -> None:
        self.mu = mu

    def begin(self, client: ClientRound) -> Vectors:
        """Remember what the server sent; see `ClientRule`."""
        return {"broadcast": client.broadcast}

    def before_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors) -> None:
        """Add the term; see `ClientRule`."""
        gradients.add_(values - memory["broadcast"], alpha=self.mu)


class FedProx(Composition):
    """FedAvg whose clients minimise f_k(y) + mu/2 ||y - x||^2 (1812.06127, Algorithm 2); mu = 0 is FedAvg.

    Args:
        mu: how strongly a client is held back to x.
        weighting: see `FedAvg`.
    """

    def __init__(
        self,
        mu: Annotated[float, Field(ge=0, description="Factor of the pull back to the adapter sent, 0: none.")] = 0.01,
        weighting: Weighting = "examples",
    ) -> None:
        super().__init__(WeightedMean(weighting), client=ProximalTerm(mu))
