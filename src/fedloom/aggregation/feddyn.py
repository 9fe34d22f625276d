"""FedDyn (Acar et al., arXiv 2111.04263, Algorithm 1): every client's loss is bent until all share one minimum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Algorithm, FromRun, State, Tensors, Update
from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule, Vectors
from fedloom.aggregation.folding import fold
from fedloom.aggregation.mean import StreamingMean
from fedloom.aggregation.server_optimizers import ServerOptimizer


class DynamicRegularizer(ClientRule):
    """g <- g - h_k + a (y - x), x being what the server sent; afterwards h_k <- h_k - a (y_k - x).

    Args:
        alpha: a.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def begin(self, client: ClientRound) -> Vectors:
        """h_k is 0 at first; see `ClientRule`."""
        slope = client.kept.get("slope")
        return {"broadcast": client.broadcast, "slope": torch.zeros_like(client.start) if slope is None else slope}

    def before_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors) -> None:
        """Add the gradient of -<h_k, y> + a/2 ||y - x||^2; see `ClientRule`."""
        gradients.sub_(memory["slope"]).add_(values - memory["broadcast"], alpha=self.alpha)

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """Keep the next h_k; see `ClientRule`."""
        return ClientFinish(kept={"slope": memory["slope"] - self.alpha * (values - memory["broadcast"])})


class DynamicStep(ServerOptimizer):
    """h <- h - a s D; x <- x + D - h/a, D the mean update of a share s of all clients.

    Args:
        alpha: a.
        share: s.
    """

    def __init__(self, alpha: float, share: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.share = share

    def initial(self) -> dict[str, float]:
        """The slope h starts at 0."""
        return {"slope": 0.0}

    def change(self, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        """The change D - h/a; see `ServerOptimizer`."""
        slope = state["slope"].sub_(delta, alpha=self.alpha * self.share)
        return delta.sub_(slope, alpha=1 / self.alpha)


class FedDyn(Algorithm):
    """h <- h - a/N sum_S D_k; x <- x + mean_S D_k - h/a, all clients alike (2111.04263, Algorithm 1).

    It counts on clients that come close to their minima: few steps of AdamW a round make it unstable.

    Args:
        alpha: a, how strongly a client is held back to x.
        clients: N, the number of all clients.
    """

    def __init__(
        self,
        clients: Annotated[int, FromRun, Field(ge=1)],
        alpha: Annotated[float, Field(gt=0, description="Factor of the pull back to the adapter sent.")] = 0.01,
    ) -> None:
        self.clients = clients
        self.alpha = alpha
        self.client = DynamicRegularizer(alpha)

    def init(self, adapter: Tensors) -> State:
        """h; see `Algorithm`."""
        return DynamicStep(self.alpha, 0.0).init(adapter)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        sums = fold(updates, StreamingMean(adapter, "uniform"))
        delta = sums.mean()
        if delta is None:
            return dict(adapter), state
        return DynamicStep(self.alpha, sums.total / self.clients).update(adapter, delta, state)
