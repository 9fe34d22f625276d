"""The simulated clock: how long a client's round takes, as a pure function of keyed draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fedloom.randomness import numpy_generator
from fedloom.recipe.participation_schema import ClockConfig


class Durations(Protocol):
    """How long the clients of a round take, where they may depend on each other."""

    def durations(self, clients: Sequence[str], number: int) -> Mapping[str, float]:
        """Simulated seconds from the server's sending to the updates' arrival.

        Args:
            clients: all that are drawn, sorted.
            number: the round.

        Returns:
            By client.
        """
        ...


class Clock:
    """Simulated seconds of client k's round t: tokens_k / (v_k j_kt) + bytes_down / d + bytes_up / u.

    Its speed v_k = tokens_per_second exp(spread z_k) and its jitter j_kt = exp(jitter z_kt), with z standard normal,
    are log-normal around the median client (our choice). Nothing is measured: the clock knows no hardware.

    Args:
        config: medians and spreads.
        seed: the recipe's seed.
        tokens: trained by a client in a round, by its name.
        bytes_down: sent to each client.
        bytes_up: sent by each client.
    """

    def __init__(
        self, config: ClockConfig, seed: int, tokens: Callable[[str], float], bytes_down: int, bytes_up: int
    ) -> None:
        self._config = config
        self._seed = seed
        self._tokens = tokens
        down, up = bytes_down / config.download_bytes_per_second, bytes_up / config.upload_bytes_per_second
        self._transfer = down + up

    def speed(self, client: str) -> float:
        """A client's simulated speed before jitter, in tokens a second.

        Args:
            client: its name.

        Returns:
            The same in every round.
        """
        drawn = numpy_generator(self._seed, "client_speed", 0, client).standard_normal()
        return self._config.tokens_per_second * math.exp(self._config.spread * drawn)

    def seconds(self, client: str, number: int) -> float:
        """How long a client takes, in simulated seconds.

        Args:
            client: its name.
            number: the round; of an asynchronous schedule, the start.

        Returns:
            The time from the server's sending to the update's arrival.
        """
        drawn = numpy_generator(self._seed, "client_jitter", number, client).standard_normal()
        speed = self.speed(client) * math.exp(self._config.jitter * drawn)
        return self._tokens(client) / speed + self._transfer

    def durations(self, clients: Sequence[str], number: int) -> Mapping[str, float]:
        """How long each client takes, whoever else takes part; see `Durations`."""
        return {client: self.seconds(client, number) for client in clients}
