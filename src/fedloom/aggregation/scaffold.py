"""SCAFFOLD (Karimireddy et al., arXiv 1910.06378, Algorithm 1): control variates against client drift."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, FromRun, State, Tensors, Update
from fedloom.aggregation.fedopt import ServerLearningRate
from fedloom.aggregation.folding import check_delta, fold
from fedloom.aggregation.mean import StreamingMean, add_scaled, zeros_like
from fedloom.aggregation.scaffold_controls import FullGradientControl, MeanGradientControl, UpdateControl
from fedloom.aggregation.server_optimizers import ServerOptimizer

CONTROLS = {"gradient_mean": MeanGradientControl, "full_gradient": FullGradientControl, "update": UpdateControl}
Control = Annotated[
    Literal["gradient_mean", "full_gradient", "update"],
    Field(description="A client's control variate: the mean of its gradients, of all its data, or from its update."),
]
ScaffoldWeighting = Annotated[
    Literal["examples", "uniform"], Field(description="A client's weight: its training examples, or 1.")
]


class Scaffold(Algorithm):
    """x <- x + eta sum_S p_k D_k; c <- c + sum_S P_k (c_k+ - c_k); clients add c - c_k (1910.06378, Algorithm 1).

    p_k are the weights over the clients that answered, P_k over all. "full_gradient" is the paper's option I;
    "gradient_mean" equals its option II for SGD and is our choice for every other optimiser.

    Args:
        clients: N, the number of all clients.
        total_examples: of all clients together.
        control: what a client's c_k is.
        server_learning_rate: eta.
        weighting: the same for all clients, or by training examples.
    """

    def __init__(
        self,
        clients: Annotated[int, FromRun, Field(ge=1)],
        total_examples: Annotated[int, FromRun, Field(ge=1)],
        control: Control = "gradient_mean",
        server_learning_rate: ServerLearningRate = 1.0,
        weighting: ScaffoldWeighting = "uniform",
    ) -> None:
        self.client = CONTROLS[control]()
        self.optimizer = ServerOptimizer(server_learning_rate)
        self.weighting = weighting
        self.total_weight = clients if weighting == "uniform" else total_examples

    def init(self, adapter: Tensors) -> State:
        """c; see `Algorithm`."""
        return {f"control/{name}": torch.zeros(value.shape) for name, value in adapter.items()}

    def sent(self, state: State) -> dict[str, Tensor]:
        """c; see `Algorithm`."""
        return dict(state)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        sums = fold(updates, _ControlledSums(adapter, state, self.weighting))
        delta = sums.mean()
        if delta is None:
            return dict(adapter), state
        after, _ = self.optimizer.update(adapter, delta, {})
        share = 1 / self.total_weight
        controls = {name: sums.controls.pop(name).mul_(share).add_(state[name]).float() for name in state}
        return after, controls


class _ControlledSums(StreamingMean):
    """sum_k w_k D_k and sum_k w_k (c_k+ - c_k), the latter under "control/<name>"."""

    def __init__(self, reference: Tensors, controls: Tensors, weighting: Literal["examples", "uniform"]) -> None:
        super().__init__(reference, weighting)
        self.controls = zeros_like(controls)

    @property
    def sums(self) -> dict[str, Tensor]:
        return {**super().sums, **self.controls}

    def add(self, update: Update) -> None:
        check_delta(update.extra, self.controls, "extra")
        super().add(update)
        add_scaled(self.controls, update.extra, self.weight(update))
