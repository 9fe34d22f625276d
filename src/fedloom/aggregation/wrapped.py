"""Algorithms around an algorithm: the same to clients, with something added on the server's side."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from fedloom.aggregation.base import Algorithm, Factors, State, Tensors, Update


class Wrapped(Algorithm):
    """Does what another algorithm does; subclasses add to it.

    Args:
        inner: the other one.
    """

    def __init__(self, inner: Algorithm) -> None:
        self.inner = inner
        self.client = inner.client
        self.personal = inner.personal
        self.personal_adapters = inner.personal_adapters
        self.shared = inner.shared
        self.changes_base = inner.changes_base
        self.mixed_ranks = inner.mixed_ranks

    def prepared(self, adapter: Tensors) -> dict[str, Tensor]:
        """See `Algorithm`."""
        return self.inner.prepared(adapter)

    def init(self, adapter: Tensors) -> State:
        """See `Algorithm`."""
        return self.inner.init(adapter)

    def sent(self, state: State) -> dict[str, Tensor]:
        """See `Algorithm`."""
        return self.inner.sent(state)

    def trained(self, state: State) -> Factors:
        """See `Algorithm`."""
        return self.inner.trained(state)

    def fetched(self, state: State) -> Factors:
        """See `Algorithm`."""
        return self.inner.fetched(state)

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """See `Algorithm`."""
        return self.inner.step(adapter, state, updates)


class PartlyPrivate(Wrapped):
    """Aggregates a part of the adapter; the rest stays with the clients, and as it was on the server.

    Args:
        inner: aggregates the shared part, of which alone it knows.
        is_private: whether a tensor stays with its client, by its name.
    """

    def __init__(self, inner: Algorithm, is_private: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self._is_private = is_private

    def init(self, adapter: Tensors) -> State:
        """See `Algorithm`."""
        return self.inner.init(self._public(adapter))

    def step(self, adapter: Tensors, state: State, updates: Iterable[Update]) -> tuple[dict[str, Tensor], State]:
        """See `Algorithm`."""
        stepped, state = self.inner.step(self._public(adapter), state, updates)
        return {**adapter, **stepped}, state

    def _public(self, adapter: Tensors) -> dict[str, Tensor]:
        return {name: value for name, value in adapter.items() if not self._is_private(name)}
