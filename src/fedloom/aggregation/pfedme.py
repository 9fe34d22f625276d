"""Clients send the anchor of what they keep for themselves: pFedMe (Dinh et al., arXiv 2006.08848, Algorithm 1)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule, Vectors
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.fedopt import ServerLearningRate
from fedloom.aggregation.mean import WeightedMean
from fedloom.aggregation.server_optimizers import ServerOptimizer
from fedloom.errors import UserError


class MoreauEnvelope(ClientRule):
    """K times theta <- theta - l (g(theta) + lam (theta - w)), then w <- w - eta lam (w - theta), and again.

    The local optimiser moves theta; w is what is sent. Steps left over at a round's end, fewer than K, are followed by
    a step of w as well (our choice).

    Args:
        lam: how strongly theta is held to w.
        outer_learning_rate: eta.
        personal_steps: K.
    """

    def __init__(self, lam: float, outer_learning_rate: float, personal_steps: int) -> None:
        self.lam = lam
        self.share = outer_learning_rate * lam
        self.personal_steps = personal_steps

    def begin(self, client: ClientRound) -> Vectors:
        """Both start from the same adapter; see `ClientRule`."""
        return {"anchor": client.start.clone(), "steps": torch.zeros((), dtype=torch.int64)}

    def before_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors) -> None:
        """Hold theta to w; see `ClientRule`."""
        gradients.add_(values - memory["anchor"], alpha=self.lam)

    def after_step(self, values: Tensor, memory: Vectors) -> None:
        """After K steps let w follow theta; see `ClientRule`."""
        if int(memory["steps"].add_(1)) % self.personal_steps == 0:
            memory["anchor"].lerp_(values, self.share)

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """Send w, keep theta; see `ClientRule`."""
        if int(memory["steps"]) % self.personal_steps:
            memory["anchor"].lerp_(values, self.share)
        personal = values.clone()
        values.copy_(memory["anchor"])
        return ClientFinish(kept={"personal": personal})


class PFedMe(Composition):
    """x <- (1 - beta) x + beta mean_S w_k; w_k follows theta_k, which client k keeps (2006.08848, Algorithm 1).

    A round's local steps are R times K, and their learning rate is that of theta.

    Args:
        lam: how strongly theta is held to w.
        outer_learning_rate: eta of w <- w - eta lam (w - theta); eta lam is at most 1.
        personal_steps: K, local steps between two steps of w.
        server_learning_rate: beta.
    """

    personal_adapters = True

    def __init__(
        self,
        lam: Annotated[float, Field(gt=0, description="Factor of a personal adapter's pull to the one sent.")] = 15.0,
        outer_learning_rate: Annotated[
            float, Field(gt=0, description="Learning rate of the adapter sent; times lam at most 1.")
        ] = 0.005,
        personal_steps: Annotated[
            int, Field(ge=1, description="Local steps of the personal adapter before each step of the one sent.")
        ] = 5,
        server_learning_rate: ServerLearningRate = 1.0,
    ) -> None:
        if outer_learning_rate * lam > 1:
            raise UserError(
                f"federation.algorithm.outer_learning_rate: {outer_learning_rate:g} times lam ({lam:g}) must be <= 1"
            )
        client = MoreauEnvelope(lam, outer_learning_rate, personal_steps)
        super().__init__(WeightedMean("uniform"), ServerOptimizer(server_learning_rate), client)
