"""A scenario's clients and their channels, as keyed draws: the same client has the same in every cohort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedloom.errors import UserError
from fedloom.randomness import numpy_generator
from fedloom.recipe.network_schema import Interval
from fedloom.wireless.channel import Values, broadcast_seconds, decibels_to_ratio, path_loss_db
from fedloom.wireless.problem import RoundProblem
from fedloom.wireless.scenario import Scenario
from fedloom.wireless.trace import GainTrace, read_gains

# FLOP of one parameter for one token: forwards and backwards to inputs; for trained ones also to themselves.
FROZEN_FLOP, TRAINED_FLOP = 4.0, 6.0


class Network:
    """The clients of a scenario.

    Distances, devices and examples are drawn once, keyed by client; fading for every round, keyed by round and client.

    Args:
        scenario: the network.
        clients: names by which draws are keyed; default: the trace's, else as many as the scenario says.
        examples: [clients] examples n_k; default: drawn.
        trace: the scenario's, where it has been read already.

    Raises:
        UserError: where a trace can't be read, or lacks a client.
    """

    def __init__(
        self,
        scenario: Scenario,
        clients: Sequence[str] | None = None,
        examples: Sequence[int] | None = None,
        trace: GainTrace | None = None,
    ) -> None:
        self.scenario = scenario
        if trace is None and scenario.trace is not None:
            trace = read_gains(scenario.trace)
        if clients is None:
            clients = [f"client-{k}" for k in range(scenario.clients)] if trace is None else trace.clients
        self.clients = tuple(clients)
        if trace is not None:
            column = {name: place for place, name in enumerate(trace.clients)}
            missing = next((name for name in self.clients if name not in column), None)
            if missing is not None:
                raise UserError(f"trace: {scenario.trace} has no client {missing!r}")
            self._traced = trace.gain_db[:, [column[name] for name in self.clients]]
            self.distance_m: Values | None = None
        else:
            self.distance_m = self._drawn(scenario.cell.distance_m, "client_distance")
        self.device = self._classes()
        self.flop_per_second = self._speeds()
        self.power_dbm = np.array([scenario.devices[one].power_dbm for one in self.device])
        drawn = self._drawn(scenario.work.examples, "client_examples") if examples is None else examples
        self.examples = np.maximum(np.rint(np.asarray(drawn, dtype=np.float64)), 1.0)

    def gains(self, round_number: int) -> Values:
        """Received over sent power of a round.

        Args:
            round_number: the round.

        Returns:
            [clients] h_k = fading * 10^(-PL/10).
        """
        cell = self.scenario.cell
        if self.distance_m is None:
            return decibels_to_ratio(self._traced[round_number % len(self._traced)])
        loss = path_loss_db(self.distance_m / 1000.0, cell.path_loss_at_one_km_db, cell.path_loss_per_decade_db)
        return self._fading(round_number) * decibels_to_ratio(-loss)

    def problem(self, round_number: int) -> RoundProblem:
        """The joint problem of a round.

        Args:
            round_number: the round.

        Returns:
            Whose c_k = E n_k L (4 P_base + 6 P_adapter) / F_k, S_k the adapter's bits, a_k its broadcast.
        """
        work = self.scenario.work
        bits = work.adapter_parameters * work.bits_per_parameter
        flop = FROZEN_FLOP * work.base_parameters + TRAINED_FLOP * work.adapter_parameters
        return self.problem_of(round_number, work.epochs * self.examples * work.tokens_per_example * flop, bits, bits)

    def problem_of(
        self, round_number: int, flop: ArrayLike, upload_bits: ArrayLike, broadcast_bits: float
    ) -> RoundProblem:
        """The joint problem of a round with work that is known.

        Args:
            round_number: the round.
            flop: [clients], of training without pruning.
            upload_bits: [clients] S_k, of the updates without pruning.
            broadcast_bits: what all clients are sent.

        Returns:
            The problem.
        """
        cell, pruning = self.scenario.cell, self.scenario.pruning
        gains = self.gains(round_number)
        noise = float(decibels_to_ratio(cell.noise_dbm_per_hz - 30.0))
        power = float(decibels_to_ratio(cell.base_station_power_dbm - 30.0))
        return RoundProblem(
            channel_gain_hz=decibels_to_ratio(self.power_dbm - 30.0) * gains / noise,
            fixed_latency_s=broadcast_seconds(broadcast_bits, cell.bandwidth_hz, power, gains, noise),
            compute_s=np.asarray(flop, dtype=np.float64) / self.flop_per_second,
            upload_bits=upload_bits,
            weights=self.examples / self.examples.sum(),
            bandwidth_hz=cell.bandwidth_hz,
            prune_budget=pruning.budget,
            max_prune=pruning.max_rate,
        )

    def _drawn(self, interval: Interval, purpose: str) -> Values:
        return np.array([self._generator(purpose, name).uniform(interval.low, interval.high) for name in self.clients])

    def _classes(self) -> NDArray[np.int64]:
        """Which class of devices each client has: where its draw falls among the shares."""
        ends = np.cumsum([device.share for device in self.scenario.devices])
        drawn = [self._generator("client_device", name).random() * ends[-1] for name in self.clients]
        return np.minimum(np.searchsorted(ends, drawn, side="right"), len(ends) - 1)

    def _speeds(self) -> Values:
        speeds = [self.scenario.devices[one].flop_per_second for one in self.device]
        return np.array(
            [
                self._generator("client_flops", name).uniform(speed.low, speed.high)
                for name, speed in zip(self.clients, speeds, strict=True)
            ]
        )

    def _fading(self, round_number: int) -> Values:
        """Powers |h|^2 of mean 1: exponential (Rayleigh), or with a constant wave of its share (Rician)."""
        fading = self.scenario.fading
        if fading.kind == "none":
            return np.ones(len(self.clients))
        # Two normal parts of a complex amplitude; Rayleigh is Rician without a line of sight.
        drawn = np.array(
            [self._generator("channel_fading", name, round_number).standard_normal(2) for name in self.clients]
        )
        sight = 0.0 if fading.k_factor is None else fading.k_factor
        drawn = drawn * np.sqrt(0.5 / (1.0 + sight))
        drawn[:, 0] += np.sqrt(sight / (1.0 + sight))
        powers: Values = np.square(drawn).sum(axis=1)
        return powers

    def _generator(self, purpose: str, client: str, round_number: int = 0) -> np.random.Generator:
        return numpy_generator(self.scenario.seed, purpose, round_number, client)
