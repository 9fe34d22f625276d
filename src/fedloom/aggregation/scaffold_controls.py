"""The control variates of SCAFFOLD's clients: three definitions of what c_k becomes after a round.

All correct by c - c_k, keep c_k and send the change of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule, Vectors


class _Control(ClientRule):
    """What the three have in common."""

    sends = ("control",)

    def begin(self, client: ClientRound) -> Vectors:
        """c_k is 0 at first; see `ClientRule`."""
        own = client.kept.get("control")
        own = torch.zeros_like(client.start) if own is None else own
        nothing = torch.zeros((), dtype=torch.float64)
        return {"own": own, "correction": client.received["control"] - own, "rates": nothing, "steps": nothing.clone()}

    def next_control(self, values: Tensor, memory: Vectors) -> Tensor:
        """c_k after the round."""
        raise NotImplementedError

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """Keep c_k, send its change; see `ClientRule`."""
        control = self.next_control(values, memory)
        return ClientFinish(kept={"control": control}, extra={"control": control - memory["own"]})


class MeanGradientControl(_Control):
    """c_k <- sum_j l_j q_j / sum_j l_j, q_j the clipped gradient of step j before its correction, l_j the rate.

    For SGD this is the paper's option II, under any schedule. Unlike that one it is a mean gradient whatever the
    optimiser: clients with other rates, numbers of steps or preconditioners stay comparable.
    """

    def begin(self, client: ClientRound) -> Vectors:
        """See `ClientRule`."""
        return {**super().begin(client), "mean": torch.zeros_like(client.start)}

    def after_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors, rate: float) -> None:
        """Take the gradient into the mean, then correct it; see `ClientRule`."""
        rates, steps = float(memory["rates"].add_(rate)), float(memory["steps"].add_(1))
        # As long as all rates are 0 the steps count alike.
        memory["mean"].lerp_(gradients, rate / rates if rates else 1 / steps)
        gradients.add_(memory["correction"])

    def next_control(self, values: Tensor, memory: Vectors) -> Tensor:
        """The mean."""
        return memory["mean"]


class FullGradientControl(_Control):
    """c_k <- the gradient over all of the client's data where the round began: the paper's option I."""

    full_gradient = True

    def begin(self, client: ClientRound) -> Vectors:
        """See `ClientRule`."""
        return {**super().begin(client), "full": client.received["full_gradient"]}

    def after_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors, rate: float) -> None:
        """Correct the gradient; see `ClientRule`."""
        gradients.add_(memory["correction"])

    def next_control(self, values: Tensor, memory: Vectors) -> Tensor:
        """The full gradient."""
        return memory["full"].clone()


class UpdateControl(_Control):
    """y <- y - l_j (c - c_k) after each step; c_k <- c_k - c + (x - y_k) / sum_j l_j: in units of update directions.

    For optimisers whose gradients can't be reached. With AdamW it settles where the clients' directions cancel, which
    is not where their gradients do.
    """

    def begin(self, client: ClientRound) -> Vectors:
        """See `ClientRule`."""
        return {**super().begin(client), "start": client.start, "rate": torch.zeros((), dtype=torch.float64)}

    def after_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors, rate: float) -> None:
        """Remember the rate of the step that follows; see `ClientRule`."""
        memory["rate"].fill_(rate)
        memory["rates"].add_(rate)

    def after_step(self, values: Tensor, memory: Vectors) -> None:
        """Correct the values; see `ClientRule`."""
        values.sub_(memory["correction"], alpha=float(memory["rate"]))

    def next_control(self, values: Tensor, memory: Vectors) -> Tensor:
        """From the way the client went; unchanged where all rates were 0."""
        rates = float(memory["rates"])
        return (memory["start"] - values) / rates - memory["correction"] if rates else memory["own"].clone()
