"""An algorithm's clients' half where clients keep a part of the adapter: it works on what is shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from fedloom.aggregation.client_rule import ClientFinish, ClientRound, ClientRule, Vectors


class SharedOnly(ClientRule):
    """Another rule on some of the trained entries; the others are trained plainly.

    What a server corrects, holds back or remembers has a meaning only for entries that it knows: a client's private
    ones would be pulled to where the server left them, or have their own gradients subtracted.

    Args:
        rule: the other one.
        places: int64 [shared entries], where they are among the trained ones.
        views: the named tensors of a vector of shared entries.
    """

    def __init__(self, rule: ClientRule, places: Tensor, views: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self._rule = rule
        self._places = places
        self._views = views
        self.full_gradient = rule.full_gradient

    def begin(self, client: ClientRound) -> Vectors:
        """See `ClientRule`; what the server sent is of shared entries already."""
        received = dict(client.received)
        if self.full_gradient:
            received["full_gradient"] = received["full_gradient"][self._places]
        start, broadcast = client.start[self._places], client.broadcast[self._places]
        return self._rule.begin(replace(client, start=start, broadcast=broadcast, received=received, views=self._views))

    def before_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors) -> None:
        """See `ClientRule`."""
        shared = gradients[self._places]
        self._rule.before_clipping(values[self._places], shared, memory)
        gradients[self._places] = shared

    def after_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors, rate: float) -> None:
        """See `ClientRule`."""
        shared = gradients[self._places]
        self._rule.after_clipping(values[self._places], shared, memory, rate)
        gradients[self._places] = shared

    def after_step(self, values: Tensor, memory: Vectors) -> None:
        """See `ClientRule`."""
        shared = values[self._places]
        self._rule.after_step(shared, memory)
        values[self._places] = shared

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """See `ClientRule`."""
        shared = values[self._places]
        finish = self._rule.finish(shared, memory)
        values[self._places] = shared
        return finish
