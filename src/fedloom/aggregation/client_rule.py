"""The clients' half of an algorithm: what it adds to plain local training, on vectors of trained entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Vectors = dict[str, Tensor]


@dataclass(frozen=True)
class ClientRound:
    """What a client begins a round with; all vectors are fp32 [trained entries] on one device and stay as they are.

    Args:
        start: where training begins.
        broadcast: what the server sent: the same values, except where a client goes on from an adapter of its own.
        received: what else the server sent (`Algorithm.sent`), one vector for each prefix, e.g. "control".
        kept: what the client's last `finish` kept; empty at first.
        views: the named tensors of such a vector, or of one of positions in it, as views.
        momentum: of the local optimiser.
    """

    start: Tensor
    broadcast: Tensor
    received: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    views: Callable[[Tensor], dict[str, Tensor]]
    momentum: float = 0.0


@dataclass(frozen=True)
class ClientFinish:
    """What a client's round leaves beside its adapter.

    Args:
        kept: vectors that the client keeps until its next round.
        extra: vectors that it sends; they arrive in `Update.extra` as "<key>/<tensor name>".
        metrics: numbers that it reports.
    """

    kept: Vectors = field(default_factory=dict)
    extra: Vectors = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class ClientRule:
    """Plain local training. Subclasses change gradients or values in place; nothing here knows a model.

    An object serves all clients of a round, so what belongs to one client is in its `memory`.
    """

    # Whether `begin` is to find the gradient over all of the client's data, at its start, in received["full_gradient"].
    full_gradient: bool = False
    # The keys of what `finish` sends beside the update.
    sends: tuple[str, ...] = ()

    def begin(self, client: ClientRound) -> Vectors:
        """Prepare a round.

        Args:
            client: what the client begins with.

        Returns:
            The memory that the other methods are given.
        """
        return {}

    def before_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors) -> None:
        """Add the gradient of further terms of the client's loss, in place.

        Args:
            values: the client's entries.
            gradients: of its batch; clipped afterwards.
            memory: of the client.
        """

    def after_clipping(self, values: Tensor, gradients: Tensor, memory: Vectors, rate: float) -> None:
        """Correct what the optimiser gets, in place.

        Args:
            values: the client's entries.
            gradients: clipped.
            memory: of the client.
            rate: learning rate of the step.
        """

    def after_step(self, values: Tensor, memory: Vectors) -> None:
        """Change the values once the optimiser has made its step, in place.

        Args:
            values: the client's entries.
            memory: of the client.
        """

    def finish(self, values: Tensor, memory: Vectors) -> ClientFinish:
        """End a round.

        Args:
            values: the client's entries; changed in place where it is to send others.
            memory: of the client.

        Returns:
            What it keeps, sends and reports.
        """
        return ClientFinish()
