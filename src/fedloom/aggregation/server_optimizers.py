"""Server optimisers: from the mean update of a round to the next adapter, with a state of named tensors.

All compute in fp64 and keep their state in fp32 as "<kind>/<name of the adapter's tensor>". The mean update is given up
tensor by tensor while the next adapter and state come into being. A tensor that a round's mean update does not name
(the other factor, where factors take turns) is left alone, and so is its state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedloom.aggregation.base import State, Tensors

# Entries that are moved at a time.
PIECE = 1 << 15


class ServerOptimizer:
    """x <- x + eta D, D the mean update: a gradient step along -D.

    Args:
        learning_rate: eta.
    """

    def __init__(self, learning_rate: float = 1.0) -> None:
        self.learning_rate = learning_rate

    def initial(self) -> dict[str, float]:
        """What each kind of state begins with, in all entries."""
        return {}

    def change(self, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        """What is added to one tensor.

        Args:
            delta: its mean update in fp64; may be changed in place.
            state: its state by kind, fp64; updated in place.

        Returns:
            The change, fp64, which the caller may change.
        """
        return delta.mul_(self.learning_rate)

    def init(self, adapter: Tensors) -> State:
        """The state before the first round.

        Args:
            adapter: the adapter that will be trained.

        Returns:
            Named tensors, fp32.
        """
        return {
            f"{kind}/{name}": torch.full(value.shape, start, dtype=torch.float32)
            for kind, start in self.initial().items()
            for name, value in adapter.items()
        }

    def update(self, adapter: Tensors, delta: dict[str, Tensor], state: State) -> tuple[dict[str, Tensor], State]:
        """One round's step.

        Args:
            adapter: x.
            delta: the mean update in fp64, of some of its tensors or all; used up.
            state: the optimiser's.

        Returns:
            The next adapter, rounded once to its format, and the next state.
        """
        after, state = dict(adapter), dict(state)
        for name in list(delta):
            own = {kind: state[f"{kind}/{name}"] for kind in self.initial()}
            after[name], own = self._moved(adapter[name], delta.pop(name), own)
            state.update({f"{kind}/{name}": value for kind, value in own.items()})
        return after, state

    def _moved(self, value: Tensor, delta: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One tensor's next value and state, piece by piece: what is fp64 stays in cache."""
        moved = torch.empty(value.shape, dtype=value.dtype)
        after = {kind: torch.empty(one.shape, dtype=one.dtype) for kind, one in state.items()}
        for start in range(0, value.numel(), PIECE):
            piece = slice(start, start + PIECE)
            wide = {kind: one.view(-1)[piece].to(torch.float64, copy=True) for kind, one in state.items()}
            change = self.change(delta.view(-1)[piece], wide)
            moved.view(-1)[piece] = change.add_(value.reshape(-1)[piece])
            for kind, one in wide.items():
                after[kind].view(-1)[piece] = one
        return moved, after


class Momentum(ServerOptimizer):
    """v <- beta v + D; x <- x + eta v: not a mean of D, the effective rate is eta / (1 - beta).

    Args:
        learning_rate: eta.
        beta: the share of v that is kept.
    """

    def __init__(self, learning_rate: float, beta: float) -> None:
        super().__init__(learning_rate)
        self.beta = beta

    def initial(self) -> dict[str, float]:
        """The momentum v starts at 0."""
        return {"momentum": 0.0}

    def change(self, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        """The change eta v; see `ServerOptimizer`."""
        state["momentum"].mul_(self.beta).add_(delta)
        return torch.mul(state["momentum"], self.learning_rate, out=delta)


class Adaptive(ServerOptimizer):
    """m <- b1 m + (1 - b1) D; v from D squared (never m squared); x <- x + eta m / (sqrt(v) + tau).

    Subclasses say how v follows.

    Args:
        learning_rate: eta.
        beta1: the share of m that is kept.
        tau: what keeps steps of tiny updates small.
        initial_second_moment: v before the first round; None: tau squared.
    """

    def __init__(self, learning_rate: float, beta1: float, tau: float, initial_second_moment: float | None) -> None:
        super().__init__(learning_rate)
        self.beta1 = beta1
        self.tau = tau
        self.start = tau**2 if initial_second_moment is None else initial_second_moment

    def initial(self) -> dict[str, float]:
        """The mean m starts at 0, v where the caller says."""
        return {"momentum": 0.0, "second_moment": self.start}

    def accumulate(self, second_moment: Tensor, square: Tensor) -> None:
        """Bring v up to date, in place.

        Args:
            second_moment: v.
            square: D squared.
        """
        raise NotImplementedError

    def change(self, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        """The change eta m / (sqrt(v) + tau); see `ServerOptimizer`."""
        momentum, second_moment = state["momentum"], state["second_moment"]
        momentum.mul_(self.beta1).add_(delta, alpha=1 - self.beta1)
        self.accumulate(second_moment, delta.square_())
        return torch.sqrt(second_moment, out=delta).add_(self.tau).reciprocal_().mul_(momentum).mul_(self.learning_rate)


class Adagrad(Adaptive):
    """v <- v + D^2."""

    def accumulate(self, second_moment: Tensor, square: Tensor) -> None:
        """See `Adaptive`."""
        second_moment.add_(square)


class DecayingAdaptive(Adaptive):
    """An adaptive optimiser that forgets: a round counts 1 - b2.

    Args:
        learning_rate: eta.
        beta1: the share of m that is kept.
        beta2: the share of v that is kept.
        tau: what keeps steps of tiny updates small.
        initial_second_moment: v before the first round; None: tau squared.
    """

    def __init__(
        self, learning_rate: float, beta1: float, beta2: float, tau: float, initial_second_moment: float | None
    ) -> None:
        super().__init__(learning_rate, beta1, tau, initial_second_moment)
        self.beta2 = beta2


class Yogi(DecayingAdaptive):
    """v <- v - (1 - b2) D^2 sign(v - D^2): the step of v does not depend on its size."""

    def accumulate(self, second_moment: Tensor, square: Tensor) -> None:
        """See `Adaptive`."""
        sign = torch.sub(second_moment, square).sign_()
        second_moment.sub_(sign.mul_(square), alpha=1 - self.beta2)


class Adam(DecayingAdaptive):
    """v <- b2 v + (1 - b2) D^2."""

    def accumulate(self, second_moment: Tensor, square: Tensor) -> None:
        """See `Adaptive`."""
        second_moment.mul_(self.beta2).add_(square, alpha=1 - self.beta2)
