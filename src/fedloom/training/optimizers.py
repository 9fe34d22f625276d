"""Local optimisers on stacked adapters: row g of every tensor is one client, and rows never mix."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fedloom.recipe.schema import LocalConfig

OptimizerState = dict[str, Tensor]


class Optimizer(Protocol):
    """An `init`/`update` pair over [groups, parameters] rows; the state is named tensors with the same rows."""

    def init(self, values: Tensor) -> OptimizerState:
        """The state before the first step, one row for each group."""
        ...

    def update(self, values: Tensor, gradients: Tensor, state: OptimizerState, rate: float) -> None:
        """One step in place on values and state."""
        ...


class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101), equal to torch.optim.AdamW row by row."""

    def __init__(self, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8):
        self.weight_decay = weight_decay
        self.betas = betas
        self.epsilon = epsilon

    def init(self, values: Tensor) -> OptimizerState:
        """Zero moments and step counts; see `Optimizer`."""
        return {
            "first_moment": torch.zeros_like(values),
            "second_moment": torch.zeros_like(values),
            "step": torch.zeros(len(values), 1, dtype=torch.float64, device=values.device),
        }

    def update(self, values: Tensor, gradients: Tensor, state: OptimizerState, rate: float) -> None:
        """One step in place; see `Optimizer`."""
        beta1, beta2 = self.betas
        first, second, step = state["first_moment"], state["second_moment"], state["step"]
        step += 1
        if self.weight_decay:
            values.mul_(1 - rate * self.weight_decay)
        first.lerp_(gradients, 1 - beta1)
        second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        # Each row has its own number of steps behind it, hence its own bias corrections.
        root = (1 - beta2**step).sqrt().to(values.dtype)
        scaled_rate = (rate / (1 - beta1**step)).to(values.dtype)
        denominator = second.sqrt().div_(root).add_(self.epsilon)
        values.sub_(first.div(denominator).mul_(scaled_rate))


class Sgd:
    """Stochastic gradient descent with momentum and L2 decay, equal to torch.optim.SGD row by row."""

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
        return AdamW(local.weight_decay)
    return Sgd(local.momentum, local.weight_decay)


def clip_gradients(gradients: Tensor, max_norm: float) -> None:
    """Scale each row down to a norm of at most `max_norm`, in place, as torch's clip_grad_norm_ does for one model.

    Args:
        gradients: [groups, parameters].
        max_norm: the largest norm left alone.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    gradients.mul_((max_norm / (norms + 1e-6)).clamp_(max=1.0))
