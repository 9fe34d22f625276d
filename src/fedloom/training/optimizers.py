"""Local optimisers on one client's parameters as one vector.

A cohort calls them client by client: an operation on a vector of the same length gives the same bits whatever else the
cohort holds, which one operation on all clients' rows would not (it is cut into threads and vector lanes elsewhere).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from fedloom.recipe.schema import LocalConfig

OptimizerState = dict[str, Tensor]


class Optimizer(Protocol):
    """An `init`/`update` pair on fp32 vectors [parameters]; the state is named vectors."""

    def init(self, values: Tensor) -> OptimizerState:
        """The state before the first step."""
        ...

    def update(self, values: Tensor, gradients: Tensor, state: OptimizerState, rate: float) -> None:
        """One step in place on values and state."""
        ...


class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101), equal to torch.optim.AdamW."""

    def __init__(self, weight_decay: float, epsilon: float, betas: tuple[float, float] = (0.9, 0.999)):
        self.weight_decay = weight_decay
        self.betas = betas
        self.epsilon = epsilon

    def init(self, values: Tensor) -> OptimizerState:
        """Zero moments and step counts; see `Optimizer`."""
        return {
            "first_moment": torch.zeros_like(values),
            "second_moment": torch.zeros_like(values),
            "step": torch.zeros(1),
        }

    def update(self, values: Tensor, gradients: Tensor, state: OptimizerState, rate: float) -> None:
        """One step in place; see `Optimizer`."""
        beta1, beta2 = self.betas
        first, second = state["first_moment"], state["second_moment"]
        state["step"] += 1
        step = float(state["step"])
        if self.weight_decay:
            values.mul_(1 - rate * self.weight_decay)
        first.lerp_(gradients, 1 - beta1)
        second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        denominator = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(self.epsilon)
        values.addcdiv_(first, denominator, value=-rate / (1 - beta1**step))


class Sgd:
    """Stochastic gradient descent with momentum and L2 decay, equal to torch.optim.SGD."""

    def __init__(self, momentum: float, weight_decay: float) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay

    def init(self, values: Tensor) -> OptimizerState:
        """The velocity, where there is momentum; see `Optimizer`."""
        return {"velocity": torch.zeros_like(values)} if self.momentum else {}

    def update(self, values: Tensor, gradients: Tensor, state: OptimizerState, rate: float) -> None:
        """One step in place; see `Optimizer`."""
        direction = gradients.add(values, alpha=self.weight_decay) if self.weight_decay else gradients
        if self.momentum:
            direction = state["velocity"].mul_(self.momentum).add_(direction)
        values.sub_(direction, alpha=rate)


def local_optimizer(local: LocalConfig) -> Optimizer:
    """The optimiser a recipe names.

    Args:
        local: the recipe's local section.

    Returns:
        The optimiser.
    """
    if local.optimizer == "adamw":
        return AdamW(local.weight_decay, local.epsilon)
    return Sgd(local.momentum, local.weight_decay)


def clip_gradient(gradients: Tensor, max_norm: float) -> None:
    """Scale a gradient down to a norm of at most `max_norm`, in place, as torch's clip_grad_norm_ does.

    Args:
        gradients: [parameters].
        max_norm: the largest norm left alone.
    """
    norm = torch.linalg.vector_norm(gradients)
    gradients.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
