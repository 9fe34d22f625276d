"""Who takes part in which of the federation's rounds, when each client is done, and what a network hands out."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedloom.aggregation import Algorithm, Tensors
from fedloom.data.shards import ExampleSet
from fedloom.data.splits import SPLITS
from fedloom.participation import (
    AsynchronousSchedule,
    AvailabilityTrace,
    Cell,
    CellRound,
    ClientTimes,
    Clock,
    Durations,
    Participants,
    Participation,
    read_trace,
)
from fedloom.recipe.participation_schema import ClockConfig
from fedloom.runtime import RoundPlan
from fedloom.runtime.simulated_load import SimulatedLoad
from fedloom.session import Session
from fedloom.training.batches import round_tokens
from fedloom.wire.encoding import encode


class Timetable:
    """Fills plans with those who take part.

    It is opened by the process that plans: only on its machine a trace or a scenario has to be.

    Args:
        session: what the run works with.
        clients: names, sorted.
        algorithm: of the federation.
        asynchronous: whether rounds are flushes of a buffer.
        private: names of tensors that stay with their client.
    """

    def __init__(
        self,
        session: Session,
        clients: Sequence[str],
        algorithm: Algorithm,
        asynchronous: bool,
        private: Container[str],
    ) -> None:
        self._session = session
        self._clients = clients
        self._algorithm = algorithm
        self._asynchronous = asynchronous
        self._private = private
        self._config = session.recipe.federation.participation

    def filled(self, plan: RoundPlan, beside: Tensors) -> RoundPlan:
        """Tell who takes part in a round.

        Args:
            plan: the round, all but its clients.
            beside: what the server sends beside the adapter.

        Returns:
            The plan with clients, with what the network hands out to them, and with the simulated times.
        """
        versions: dict[str, int] = {}
        times: Mapping[str, ClientTimes] = {}
        if self._asynchronous:
            participants, versions, times = self._flushed(plan)
        elif self._cell is None:
            participants = self._participation.round(plan.round)
        else:
            participants, times = self._in_cell(self._cell, plan, beside)
        wireless, seconds = self._config.wireless, participants.seconds
        prunes = wireless is not None and wireless.prunes
        return replace(
            plan,
            clients=participants.clients,
            prune_rates={name: times[name].prune_rate for name in participants.clients} if prunes else plan.prune_rates,
            versions=versions,
            missing=participants.missing,
            simulated_seconds=seconds,
            simulated_waiting_seconds=participants.waiting,
            simulated_clients={
                # Clients of an asynchronous federation wait for nobody.
                name: one.told(None if self._asynchronous else seconds)
                for name, one in times.items()
            },
        )

    def oldest_needed(self, number: int) -> int:
        """The lowest version that a client in flight after a flush still trains from.

        Args:
            number: of the flush.

        Returns:
            See `AsynchronousSchedule.oldest_needed`.
        """
        return self._schedule.oldest_needed(number)

    @cached_property
    def _participation(self) -> Participation:
        """Who takes part in synchronous rounds, where their times do not depend on each other."""
        file = self._config.availability_trace
        clock = None if self._config.clock is None else self._clock(self._config.clock)
        return self._drawing(clock, None if file is None else read_trace(file, self._clients))

    def _drawing(self, clock: Durations | None, trace: AvailabilityTrace | None = None) -> Participation:
        recipe = self._session.recipe

        def examples() -> NDArray[np.int64]:
            return self._session.data.sizes()[: len(self._clients), SPLITS.index("train")]

        wanted = recipe.federation.clients_per_round
        return Participation(self._config, wanted, recipe.seed, self._clients, examples, clock, trace)

    def _in_cell(self, cell: Cell, plan: RoundPlan, beside: Tensors) -> tuple[Participants, Mapping[str, ClientTimes]]:
        """A synchronous round in the cell: all that are drawn share the band, whoever drops out."""
        load = self._load.of_round(plan, beside)
        participants = self._drawing(CellRound(cell, load)).round(plan.round)
        drawn = sorted([*participants.clients, *participants.missing])
        times = cell.round(plan.round, drawn, load) if drawn else {}
        return participants, {name: one for name, one in times.items() if participants.answers(name)}

    def _flushed(self, plan: RoundPlan) -> tuple[Participants, dict[str, int], dict[str, ClientTimes]]:
        """One flush of the buffer as a round: whose updates it holds, and from which version each was trained."""
        flush = self._schedule.flush(plan.round)
        before = self._schedule.flush(plan.round - 1).seconds if plan.round > 1 else 0.0
        versions = {arrival.client: arrival.started_from for arrival in flush.arrivals}
        times = {}
        if self._cell is not None:
            times = {name: self._alone(self._cell, name, start) for name, start in flush.starts.items()}
        return Participants(tuple(versions), {}, flush.seconds - before), versions, times

    @cached_property
    def _schedule(self) -> AsynchronousSchedule:
        """Who arrives in which of the server's buffers."""
        recipe, federation, cell = self._session.recipe, self._session.recipe.federation, self._cell
        duration: Callable[[str, int], float]
        if cell is None:
            assert self._config.clock is not None
            duration = self._clock(self._config.clock).seconds
        else:

            def alone(client: str, start: int) -> float:
                return self._alone(cell, client, start).finish

            duration = alone

        buffer_size = federation.algorithm.parameters["buffer_size"]
        return AsynchronousSchedule(recipe.seed, self._clients, federation.clients_per_round, buffer_size, duration)

    def _alone(self, cell: Cell, client: str, start: int) -> ClientTimes:
        """A start in the cell: as many clients share the band equally as are in flight at any time."""
        recipe = self._session.recipe
        # Which round its update will count in is not known yet, and with it not which batches it will draw.
        plan = RoundPlan("federated", start, (), recipe.local.learning_rate, recipe.local.batch_size)
        return cell.alone(start, client, recipe.federation.clients_per_round, self._load.of_round(plan, {}))

    @cached_property
    def _cell(self) -> Cell | None:
        config = self._config.wireless
        return None if config is None else Cell(config, self._session.recipe.seed, lambda name: len(self._of(name)))

    @cached_property
    def _load(self) -> SimulatedLoad:
        session = self._session
        return SimulatedLoad(session.model, session.grouped, session.recipe, self._of, self._algorithm)

    def _clock(self, config: ClockConfig) -> Clock:
        """Simulates durations; the transfer is that of the tensors that clients share, once each way."""
        recipe, grouped = self._session.recipe, self._session.grouped

        def tokens(client: str) -> float:
            return round_tokens(self._of(client).lengths, recipe.local, recipe.local.batch_size)

        shared = {name: value for name, value in grouped.initial(recipe.seed).items() if name not in self._private}
        size = len(encode(shared))
        return Clock(config, recipe.seed, tokens, bytes_down=size, bytes_up=size)

    def _of(self, client: str) -> ExampleSet:
        return self._session.data.examples(client, "train")
