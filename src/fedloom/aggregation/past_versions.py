"""Asynchronous aggregation's memory: the adapters of earlier rounds that clients in flight have started from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedloom.aggregation.base import Algorithm, State, Tensors, Update
from fedloom.aggregation.wrapped import Wrapped

VERSION, COUNT = "version/", "versions"


class PastVersions(Wrapped):
    """Keeps what the server had after earlier rounds as long as an update may still be counted from it.

    Args:
        inner: aggregates.
        oldest_needed: given a round, the lowest version that a client in flight after it still trains from.
    """

    def __init__(self, inner: Algorithm, oldest_needed: Callable[[int], int]) -> None:
        super().__init__(inner)
        self._oldest_needed = oldest_needed

    def init(self, adapter: Tensors) -> State:
        """See `Algorithm`."""
        return {**self.inner.init(adapter), COUNT: torch.tensor(0)}

    def sent(self, state: State) -> dict[str, Tensor]:
        """Past adapters as "version/<round>/<name>"; a client gets the one it started from. See `Algorithm`."""
        past = {name: value for name, value in state.items() if name.startswith(VERSION)}
        return {**self.inner.sent(state), **past}

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """See `Algorithm`."""
        version = int(state[COUNT])
        past = self.sent(state)
        # Copies: what a step leaves as it was would be in the adapter and here, which no checkpoint can tell apart.
        past |= {f"{VERSION}{version}/{name}": value.clone() for name, value in adapter.items()}
        own = {name: value for name, value in state.items() if name not in past and name != COUNT}
        after, own = self.inner.step(adapter, own, updates)
        oldest = self._oldest_needed(version + 1)
        kept = {name: value for name, value in past.items() if int(name.split("/")[1]) >= oldest}
        return after, {**own, **kept, COUNT: torch.tensor(version + 1)}
