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
        return {f"slope/{name}": torch.zeros(value.shape) for name, value in adapter.items()}

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """One round; see `Algorithm`."""
        sums = fold(updates, StreamingMean(adapter, "uniform"))
        present = sums.total / self.clients
        mean, after, state = sums.mean() or {}, dict(adapter), dict(state)
        for name in list(mean):
            delta, value = mean.pop(name), adapter[name]
            slope = state[f"slope/{name}"].double().sub_(delta, alpha=self.alpha * present)
            state[f"slope/{name}"] = slope.float()
            after[name] = delta.sub_(slope.div_(self.alpha)).add_(value).to(value.dtype)
        return after, state
