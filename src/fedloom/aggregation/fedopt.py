"""FedAvg with an optimiser on the server: FedAvgM (arXiv 1909.06335), FedAdagrad, FedYogi, FedAdam (2003.00295)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedloom.aggregation.base import Weighting
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.mean import WeightedMean
from fedloom.aggregation.server_optimizers import Adagrad, Adam, Momentum, Yogi

ServerLearningRate = Annotated[float, Field(gt=0, description="Learning rate of the server.")]
Beta1 = Annotated[float, Field(ge=0, lt=1, description="Share of the first moment kept from round to round.")]
Beta2 = Annotated[float, Field(ge=0, lt=1, description="Share of the second moment kept from round to round.")]
Tau = Annotated[float, Field(gt=0, description="Added to the root of the second moment; below a typical |update|.")]
InitialSecondMoment = Annotated[
    float | None, Field(ge=0, description="The second moment before the first round; by default tau squared.")
]


class FedAvgM(Composition):
    """v <- beta v + D; x <- x + eta v, D the mean update (1909.06335); beta = 0, eta = 1 is FedAvg.

    Args:
        server_learning_rate: eta.
        beta: share of v kept from round to round; the effective rate is eta / (1 - beta).
        weighting: see `FedAvg`.
    """

    def __init__(
        self,
        server_learning_rate: ServerLearningRate = 1.0,
        beta: Annotated[float, Field(ge=0, lt=1, description="Share of the momentum kept.")] = 0.9,
        weighting: Weighting = "examples",
    ) -> None:
        super().__init__(WeightedMean(weighting), Momentum(server_learning_rate, beta))


class FedAdagrad(Composition):
    """v <- v + D^2; x <- x + eta m / (sqrt(v) + tau), m a moving mean of D (2003.00295, Algorithm 2).

    Args:
        server_learning_rate: eta.
        beta1: share of m kept from round to round.
        tau: what keeps steps of tiny updates small.
        weighting: see `FedAvg`.
        initial_second_moment: v before the first round.
    """

    def __init__(
        self,
        server_learning_rate: ServerLearningRate = 0.1,
        beta1: Beta1 = 0.0,
        tau: Tau = 1e-3,
        weighting: Weighting = "examples",
        initial_second_moment: InitialSecondMoment = None,
    ) -> None:
        super().__init__(WeightedMean(weighting), Adagrad(server_learning_rate, beta1, tau, initial_second_moment))


class FedYogi(Composition):
    """v <- v - (1 - b2) D^2 sign(v - D^2); x <- x + eta m / (sqrt(v) + tau) (2003.00295, Algorithm 2).

    Args:
        server_learning_rate: eta.
        beta1: share of m, a moving mean of D, kept from round to round.
        beta2: share of v kept from round to round.
        tau: what keeps steps of tiny updates small.
        weighting: see `FedAvg`.
        initial_second_moment: v before the first round.
    """

    def __init__(
        self,
        server_learning_rate: ServerLearningRate = 0.1,
        beta1: Beta1 = 0.9,
        beta2: Beta2 = 0.99,
        tau: Tau = 1e-3,
        weighting: Weighting = "examples",
        initial_second_moment: InitialSecondMoment = None,
    ) -> None:
        super().__init__(WeightedMean(weighting), Yogi(server_learning_rate, beta1, beta2, tau, initial_second_moment))


class FedAdam(Composition):
    """v <- b2 v + (1 - b2) D^2; x <- x + eta m / (sqrt(v) + tau), no bias correction (2003.00295, Algorithm 2).

    Args:
        server_learning_rate: eta.
        beta1: share of m, a moving mean of D, kept from round to round.
        beta2: share of v kept from round to round.
        tau: what keeps steps of tiny updates small.
        weighting: see `FedAvg`.
        initial_second_moment: v before the first round.
    """

    def __init__(
        self,
        server_learning_rate: ServerLearningRate = 0.1,
        beta1: Beta1 = 0.9,
        beta2: Beta2 = 0.99,
        tau: Tau = 1e-3,
        weighting: Weighting = "examples",
        initial_second_moment: InitialSecondMoment = None,
    ) -> None:
        super().__init__(WeightedMean(weighting), Adam(server_learning_rate, beta1, beta2, tau, initial_second_moment))
