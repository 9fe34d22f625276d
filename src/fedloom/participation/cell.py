"""Rounds in a simulated radio cell: who prunes how much with how much bandwidth, and when each client is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fedloom.errors import UserError
from fedloom.recipe.network_schema import NetworkConfig
from fedloom.recipe.wireless_schema import WirelessConfig
from fedloom.wireless.allocation import Allocation
from fedloom.wireless.baselines import baseline
from fedloom.wireless.descent import solve
from fedloom.wireless.network import Network
from fedloom.wireless.plan import OURS, client_times
from fedloom.wireless.problem import RoundProblem
from fedloom.wireless.rounding import as_carried_out
from fedloom.wireless.scenario import Scenario, load_scenario
from fedloom.wireless.trace import GainTrace, read_gains

KEY = "federation.participation.wireless"
_NOTHING = 1e-9


class Load(Protocol):
    """What clients compute and what crosses in a round, before any of them has trained."""

    def flop(self, client: str, rate: float) -> float:
        """Operations of a client's training when it leaves out a share of the base."""
        ...

    def upload_bits(self, client: str, rate: float) -> float:
        """Bits of its update then."""
        ...

    def download_bits(self, clients: Sequence[str]) -> float:
        """Bits of what all of some clients are sent together."""
        ...


@dataclass(frozen=True)
class ClientTimes:
    """What a client's round is made of; nothing of it is measured.

    Args:
        receive: simulated seconds of the broadcast.
        compute: simulated seconds of training.
        send: simulated seconds of sending the update.
        prune_rate: the share of the base's units that it may leave out.
        bandwidth_hz: its share of the band.
    """

    receive: float
    compute: float
    send: float
    prune_rate: float
    bandwidth_hz: float

    @property
    def finish(self) -> float:
        """Simulated seconds from the round's begin to the update's arrival, T_k."""
        return self.receive + self.compute + self.send

    def told(self, seconds: float | None) -> dict[str, float]:
        """The times as an event has them.

        Args:
            seconds: how long the round takes; None where nobody waits for its end.

        Returns:
            Numbers by name; a client that comes too late does not wait.
        """
        waits = {} if seconds is None else {"wait_seconds": max(0.0, seconds - self.finish)}
        return {
            "receive_seconds": self.receive,
            "compute_seconds": self.compute,
            "send_seconds": self.send,
            **waits,
            "prune_rate": self.prune_rate,
            "bandwidth_hz": self.bandwidth_hz,
        }


class Cell:
    """The cell of a run.

    A client's place, device and channels are keyed by the recipe's seed and its name, channels also by the round: the
    same whoever else takes part. Rates and bandwidths are the solution of problem P1 over the round's clients.

    Args:
        config: the recipe's section.
        seed: the recipe's seed.
        examples: gives a client's training examples n_k, by which the pruning budget weighs it.
    """

    def __init__(self, config: WirelessConfig, seed: int, examples: Callable[[str], int]) -> None:
        self.config = config
        self._examples = examples
        scenario, self._trace = open_scenario(config)
        bounds = scenario.pruning
        if config.budget is not None:
            bounds = bounds.model_copy(update={"budget": config.budget})
        self._scenario = scenario.model_copy(update={"seed": seed, "pruning": bounds})

    def round(self, number: int, clients: Sequence[str], load: Load) -> dict[str, ClientTimes]:
        """Divide the band among a round's clients.

        Args:
            number: the round, from 1.
            clients: those drawn, sorted; the server learns too late who drops out.
            load: what they compute and send.

        Returns:
            Every client's times.
        """
        network, problem = self._problem(number, clients, load)
        planned = self._planned(problem, number, clients, network.scenario.seed)
        # A solution's last digits are no reason to look for units that could be left out.
        planned = replace(planned, prune_rate=np.where(planned.prune_rate < _NOTHING, 0.0, planned.prune_rate))
        rates = planned.prune_rate.tolist()
        flop = [load.flop(client, rate) for client, rate in zip(clients, rates, strict=True)]
        bits = [load.upload_bits(client, rate) for client, rate in zip(clients, rates, strict=True)]
        # What is really left out are whole units, and of parts of the model and of the update nothing.
        actual, found = as_carried_out(
            problem, planned, flop / network.flop_per_second, bits, self.config.equal_bandwidth
        )
        return _times(clients, actual, found)

    def alone(self, number: int, client: str, sharing: int, load: Load) -> ClientTimes:
        """The times of a client that begins when it likes, with an equal share of the band (asynchronous aggregation).

        Args:
            number: of the start.
            client: its name.
            sharing: how many clients share the band at any time.
            load: what it computes and sends.

        Returns:
            Its times.
        """
        _, problem = self._problem(number, [client], load)
        share = baseline(self.config.scheme, problem.with_values(bandwidth_hz=problem.bandwidth_hz / sharing))
        return _times([client], problem, share)[client]

    def _problem(self, number: int, clients: Sequence[str], load: Load) -> tuple[Network, RoundProblem]:
        network = Network(self._scenario, clients, [self._examples(client) for client in clients], self._trace)
        channels = 0 if self.config.channels == "once" else number - 1
        flop = [load.flop(client, 0.0) for client in clients]
        bits = [load.upload_bits(client, 0.0) for client in clients]
        return network, network.problem_of(channels, flop, bits, load.download_bits(clients))

    def _planned(self, problem: RoundProblem, number: int, clients: Sequence[str], seed: int) -> Allocation:
        if self.config.scheme == OURS:
            return solve(problem)
        return baseline(self.config.scheme, problem, seed=seed, round_number=number, clients=clients)


@dataclass(frozen=True)
class CellRound:
    """The clock of one round in the cell; see `Durations`.

    Args:
        cell: the run's.
        load: of the round.
    """

    cell: Cell
    load: Load

    def durations(self, clients: Sequence[str], number: int) -> Mapping[str, float]:
        """When each of the round's clients is done; see `Durations`."""
        return {client: one.finish for client, one in self.cell.round(number, clients, self.load).items()}


def open_scenario(config: WirelessConfig) -> tuple[Scenario, GainTrace | None]:
    """Read the scenario that a recipe names, or holds.

    Args:
        config: the recipe's section.

    Returns:
        The scenario, and its trace where it has one.

    Raises:
        UserError: where one of them can't be read.
    """
    if isinstance(config.scenario, NetworkConfig):
        scenario = Scenario().model_copy(update=dict(config.scenario))
    else:
        try:
            scenario = load_scenario(config.scenario)
        except UserError as error:
            raise UserError(f"{KEY}.scenario: {error.message.removeprefix('scenario: ')}", hint=error.hint) from None
    return scenario, None if scenario.trace is None else read_gains(scenario.trace)


def scenario_fingerprint(config: WirelessConfig) -> str:
    """Hash what training takes from a scenario: its cell, fading, devices and bounds of pruning, and its trace's gains.

    Args:
        config: the recipe's section.

    Returns:
        SHA-256 in hexadecimal; another name, comment or default that is written out changes nothing.

    Raises:
        UserError: where the scenario or its trace can't be read.
    """
    scenario, trace = open_scenario(config)
    # The trace counts by its gains, wherever its file lies.
    network = scenario.model_dump(mode="json", include=set(NetworkConfig.model_fields) - {"trace"})
    digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
    if trace is not None:
        digest.update(json.dumps([trace.clients, trace.gain_db.tolist()]).encode())
    return digest.hexdigest()


def check_cell(config: WirelessConfig, clients: Sequence[str]) -> None:
    """Check what can be told only when the clients are known.

    Args:
        config: the recipe's section.
        clients: names of all training clients.

    Raises:
        UserError: for a scenario or a trace that can't be read, a client without gains, or an option without effect.
    """
    scenario, trace = open_scenario(config)
    missing = None if trace is None else next((client for client in clients if client not in trace.clients), None)
    if missing is not None:
        raise UserError(f"{KEY}.scenario: the trace {scenario.trace} has no client {missing!r}")
    if config.channels == "once" and trace is None and scenario.fading.kind == "none":
        raise UserError(f"{KEY}.channels: once has no effect: without fading, channels never change")


def _times(clients: Sequence[str], problem: RoundProblem, allocation: Allocation) -> dict[str, ClientTimes]:
    columns = (*client_times(problem, allocation), allocation.prune_rate, allocation.bandwidth_hz)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {client: ClientTimes(*row) for client, row in zip(clients, rows, strict=True)}
