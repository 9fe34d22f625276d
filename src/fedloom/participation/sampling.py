"""Who is drawn for a synchronous round, and who of them answers in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedloom.errors import UserError
from fedloom.participation.cell import check_cell
from fedloom.participation.clock import Durations
from fedloom.participation.trace import AvailabilityTrace, read_trace
from fedloom.randomness import numpy_generator
from fedloom.recipe.participation_schema import ParticipationConfig

DROPPED_OUT = "dropped out"


@dataclass(frozen=True)
class Participants:
    """Who takes part in a round.

    Args:
        clients: those that answer in time, sorted; empty where the round passes without training.
        missing: the others that were drawn, sorted, and why each doesn't count.
        seconds: how long the round takes on the simulated clock; None without one.
        waiting: how long a client that counts waits for the round's end, simulated seconds, mean over them; None where
            there is no clock or nobody counts.
    """

    clients: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    waiting: float | None = None

    def answers(self, client: str) -> bool:
        """Whether a client that was drawn finishes its round, in time or not.

        Args:
            client: its name.

        Returns:
            False where it has dropped out.
        """
        return self.missing.get(client) != DROPPED_OUT


class Participation:
    """Draws a round's clients and simulates who of them answers in time.

    A round is a pure function of keyed draws and of the simulated time at which it starts. Only a trace makes that time
    matter; it is then replayed from round 1 (some 0.1 ms a client drawn), so that a run stores nothing to go on from.

    Args:
        config: the recipe's section.
        clients_per_round: how many clients the server waits for.
        seed: the recipe's seed.
        clients: names, sorted; only those drawn are looked at.
        examples: gives [clients] int64, training examples of each; called where they are what sampling goes by.
        clock: simulates durations; None where the section has no clock.
        trace: of the clients' availability, None where all are always available.
    """

    def __init__(
        self,
        config: ParticipationConfig,
        clients_per_round: int,
        seed: int,
        clients: Sequence[str],
        examples: Callable[[], NDArray[np.int64]],
        clock: Durations | None = None,
        trace: AvailabilityTrace | None = None,
    ) -> None:
        self._config = config
        self._wanted = clients_per_round
        self._seed = seed
        self._clients = clients
        self._examples = examples
        self._clock = clock
        self._trace = trace
        # Simulated time at which each round starts, as far as it has been replayed.
        self._starts = [0.0]

    def round(self, number: int) -> Participants:
        """Who takes part in a round.

        Args:
            number: the round, from 1.

        Returns:
            The participants. Where fewer clients are available than are to be drawn, all of them are drawn; where none
            is, the round lasts until the next becomes available.
        """
        return self._round(number, self._start_of(number))

    def _start_of(self, number: int) -> float:
        """When a round starts, in the unit of the trace: simulated seconds, or rounds where there is no clock."""
        if self._trace is None or self._clock is None:
            return number - 1.0
        while len(self._starts) < number:
            seconds = self._round(len(self._starts), self._starts[-1]).seconds
            assert seconds is not None
            self._starts.append(self._starts[-1] + seconds)
        return self._starts[number - 1]

    def _round(self, number: int, time: float) -> Participants:
        drawn = self._drawn(number, time)
        if not drawn:
            assert self._trace is not None
            return Participants((), seconds=self._trace.wait(time) if self._clock is not None else None)
        missing = {client: DROPPED_OUT for client in drawn if self._drops_out(number, client)}
        answering = [client for client in drawn if client not in missing]
        if self._clock is None:
            return Participants(tuple(answering), missing)
        durations = self._clock.durations(drawn, number)
        finish = {client: durations[client] for client in answering}
        deadline = math.inf if self._config.deadline is None else self._config.deadline
        # Of equally fast clients the first by name counts.
        in_time = sorted((seconds, client) for client, seconds in finish.items() if seconds <= deadline)
        awaited = min(self._wanted, len(drawn))
        counted = in_time[:awaited]
        if len(counted) == awaited:
            seconds, reason = counted[-1][0], f"not among the first {awaited}"
        else:
            # The server can't tell a drop-out from a slow client: it waits until the deadline. Without one it is taken
            # to notice drop-outs, and waits for all others.
            seconds = deadline if deadline < math.inf else max(finish.values(), default=0.0)
            reason = f"past the deadline of {deadline:g} simulated seconds"
        clients = {client for _, client in counted}
        missing |= {client: reason for client in answering if client not in clients}
        waiting = math.fsum(seconds - finished for finished, _ in counted) / len(counted) if counted else None
        return Participants(tuple(sorted(clients)), dict(sorted(missing.items())), seconds, waiting)

    def _drawn(self, number: int, time: float) -> list[str]:
        """The round's draw, sorted."""
        generator = numpy_generator(self._seed, "clients", number)
        available = None if self._trace is None else self._trace.available(time)
        count = len(self._clients) if available is None else len(available)
        size = min(drawn_per_round(self._config, self._wanted), count)
        if size == 0:
            return []
        if self._config.sampling == "uniform":
            places = generator.choice(count, size, replace=False)
        else:
            examples = self._examples() if available is None else self._examples()[available]
            # The first arrivals of Poisson processes whose rates are the weights: drawing one after the other without
            # replacement, each with probability by weight among those left.
            arrivals = generator.exponential(size=count) / examples
            places = np.argpartition(arrivals, size - 1)[:size]
        indices = places if available is None else available[places]
        return sorted(self._clients[index] for index in indices)

    def _drops_out(self, number: int, client: str) -> bool:
        probability = self._config.drop_out
        return probability > 0 and numpy_generator(self._seed, "drop_out", number, client).random() < probability


def drawn_per_round(config: ParticipationConfig, clients_per_round: int) -> int:
    """How many clients are drawn for a round, where so many are available.

    Args:
        config: the recipe's section.
        clients_per_round: how many the server waits for.

    Returns:
        clients_per_round, or ceil(over_selection * clients_per_round).
    """
    # 1.1 * 10 is above 11 in floating point, and means 11.
    return math.ceil((config.over_selection or 1.0) * clients_per_round - 1e-9)


def check_participation(config: ParticipationConfig, clients_per_round: int, clients: Sequence[str]) -> None:
    """Check what can be told only when the clients are known.

    Args:
        config: the recipe's section.
        clients_per_round: how many clients the server waits for.
        clients: names of all training clients.

    Raises:
        UserError: for a trace that can't be read or doesn't fit the clients, or an option without effect on them.
    """
    if config.wireless is not None:
        check_cell(config.wireless, clients)
    if config.availability_trace is not None:
        read_trace(config.availability_trace, clients)
        return
    if clients_per_round < len(clients):
        return
    everybody = f"all {len(clients)} training clients are drawn for every round anyway"
    if config.sampling != "uniform":
        raise UserError(f"federation.participation.sampling: {config.sampling!r} has no effect: {everybody}")
    if config.over_selection is not None:
        raise UserError(
            f"federation.participation.over_selection: {config.over_selection:g} has no effect: {everybody}",
            hint="lower federation.clients_per_round",
        )
