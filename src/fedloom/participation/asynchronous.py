"""The schedule of buffered asynchronous aggregation (FedBuff, arXiv 2106.06639, Algorithm 1) on a simulated clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fedloom.randomness import numpy_generator
from fedloom.recipe.participation_schema import check_concurrency


class Arrival(NamedTuple):
    """An update in the server's buffer.

    Args:
        client: whose it is.
        started_from: the version of the adapter that the client was sent; its staleness is the version that the server
            has before the flush, minus this one.
    """

    client: str
    started_from: int


@dataclass(frozen=True)
class Flush:
    """A full buffer: the server's step from version t - 1 to version t.

    Args:
        arrivals: what the buffer holds, by client.
        seconds: simulated time of the flush, since the start of the run.
        oldest_needed: the lowest version that a client still in flight after the flush trains from.
        starts: the number of the start that each arrival comes from, by client.
    """

    arrivals: tuple[Arrival, ...]
    seconds: float
    oldest_needed: int
    starts: Mapping[str, int]


class AsynchronousSchedule:
    """Who arrives in which buffer, having started from which version: a pure function of keyed draws.

    `concurrency` clients train at any time. One that arrives goes into the buffer, and another is drawn uniformly from
    those neither in flight nor in the buffer. With `buffer_size` arrivals the server takes its step. Among arrivals at
    the same simulated instant clients come in their order, and whoever replaces them starts after all of them, from the
    newest version (our choice: clients that are equally fast then make synchronous rounds).

    The schedule is replayed from its start and kept: a resumed run asks for its next flush.

    Args:
        seed: the recipe's seed.
        clients: names, sorted; only those drawn are looked at.
        concurrency: clients in flight.
        buffer_size: arrivals of one step of the server.
        duration: simulated seconds of a start, given the client and the number of the start, from 1 over all clients.

    Raises:
        UserError: where there are too few clients to draw another from.
    """

    def __init__(
        self,
        seed: int,
        clients: Sequence[str],
        concurrency: int,
        buffer_size: int,
        duration: Callable[[str, int], float],
    ) -> None:
        check_concurrency(concurrency, buffer_size, len(clients))
        self._seed = seed
        self._clients = clients
        self._concurrency = concurrency
        self._buffer_size = buffer_size
        self._duration = duration
        self._starts = 0
        # Arrival time, index of the client, version it started from, number of the start.
        self._in_flight: list[tuple[float, int, int, int]] = []
        self._buffer: list[tuple[int, int, int]] = []
        self._taken: set[int] = set()
        self._flushes: list[Flush] = []
        self._replace(0.0)

    def flush(self, number: int) -> Flush:
        """One step of the server.

        Args:
            number: the version that it leads to, from 1.

        Returns:
            The flush; the same whenever it is asked for.
        """
        while len(self._flushes) < number:
            self._advance()
        return self._flushes[number - 1]

    def oldest_needed(self, number: int) -> int:
        """The lowest version that a client in flight after a flush still trains from.

        Args:
            number: of the flush; 0: before the first.

        Returns:
            The version; the server may forget all below it.
        """
        return self.flush(number).oldest_needed if number else 0

    def _advance(self) -> None:
        """The next arrival."""
        now, index, version, start = heapq.heappop(self._in_flight)
        self._buffer.append((index, version, start))
        if len(self._buffer) == self._buffer_size:
            self._flush(now)
        if not self._in_flight or self._in_flight[0][0] > now:
            self._replace(now)

    def _flush(self, now: float) -> None:
        arrivals = tuple(Arrival(self._clients[index], version) for index, version, _ in sorted(self._buffer))
        starts = {self._clients[index]: start for index, _, start in sorted(self._buffer)}
        self._taken.difference_update(index for index, _, _ in self._buffer)
        self._buffer.clear()
        newest = len(self._flushes) + 1
        oldest = min((version for _, _, version, _ in self._in_flight), default=newest)
        self._flushes.append(Flush(arrivals, now, oldest, starts))

    def _replace(self, now: float) -> None:
        """Start clients until as many as are to be are in flight."""
        while len(self._in_flight) < self._concurrency:
            self._starts += 1
            generator = numpy_generator(self._seed, "asynchronous_clients", self._starts)
            index = int(generator.integers(len(self._clients)))
            while index in self._taken:
                index = int(generator.integers(len(self._clients)))
            self._taken.add(index)
            seconds = self._duration(self._clients[index], self._starts)
            heapq.heappush(self._in_flight, (now + seconds, index, len(self._flushes), self._starts))
