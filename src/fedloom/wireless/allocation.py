"""What a scheme hands out in a round: rates and bandwidths, and the latency they lead to."""

from __future__ import annotations

from dataclasses import dataclass

from fedloom.wireless.channel import Values
from fedloom.wireless.problem import RoundProblem


@dataclass(frozen=True, eq=False)
class Allocation:
    """Rates and bandwidths of one round.

    Args:
        prune_rate: [K] rho.
        bandwidth_hz: [K] b.
        client_latency_s: [K] T_k.
        latency_s: of the round, max_k T_k.
        history: latency after every sweep, never rising; of a closed form only the last.
        converged: whether the method came to its end before its last sweep.
    """

    prune_rate: Values
    bandwidth_hz: Values
    client_latency_s: Values
    latency_s: float
    history: tuple[float, ...]
    converged: bool


def allocation_of(
    problem: RoundProblem,
    prune_rate: Values,
    bandwidth_hz: Values,
    history: tuple[float, ...] = (),
    converged: bool = True,
) -> Allocation:
    """Complete rates and bandwidths to an allocation.

    Args:
        problem: whose clients they are for.
        prune_rate: [K].
        bandwidth_hz: [K], positive.
        history: latencies of the sweeps so far.
        converged: as in `Allocation`.

    Returns:
        With the latencies that follow.
    """
    latencies = problem.client_latency(prune_rate, bandwidth_hz)
    latency = float(latencies.max())
    return Allocation(prune_rate, bandwidth_hz, latencies, latency, history or (latency,), converged)
