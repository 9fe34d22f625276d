"""What `solve` is compared with: schemes that leave out a part of the problem, and the alternation that stalls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedloom.errors import UserError, unknown_name
from fedloom.randomness import numpy_generator
from fedloom.wireless.allocation import Allocation, allocation_of
from fedloom.wireless.blocks import bandwidth_block, pruning_block
from fedloom.wireless.channel import Values
from fedloom.wireless.descent import MOST_SWEEPS, start_bandwidth
from fedloom.wireless.problem import RoundProblem

_ALTERNATION_TOLERANCE = 1e-12


def no_pruning_equal_bandwidth(problem: RoundProblem) -> Allocation:
    """Equal shares of the band, nothing pruned."""
    return allocation_of(problem, np.zeros(problem.clients), _equal(problem))


def no_pruning_optimal_bandwidth(problem: RoundProblem) -> Allocation:
    """Nothing pruned, every client finishes at the same time."""
    return _with_optimal_bandwidth(problem, np.zeros(problem.clients))


def uniform_pruning_equal_bandwidth(problem: RoundProblem) -> Allocation:
    """One rate for all that uses the budget, and equal shares of the band."""
    return allocation_of(problem, _uniform(problem), _equal(problem))


def uniform_pruning_optimal_bandwidth(problem: RoundProblem) -> Allocation:
    """One rate for all that uses the budget, and the bandwidths that are best for it."""
    return _with_optimal_bandwidth(problem, _uniform(problem))


def optimal_pruning_equal_bandwidth(problem: RoundProblem) -> Allocation:
    """Equal shares of the band, and the rates that are best for them."""
    bandwidth = _equal(problem)
    return allocation_of(problem, pruning_block(problem, bandwidth)[1], bandwidth)


def alternate(
    problem: RoundProblem, *, bandwidth_hz: Values | None = None, prune_rate: Values | None = None
) -> Allocation:
    """Alternate the rate block and the bandwidth block, each solved exactly: monotone, and no descent to the optimum.

    After the rate block all latencies are equal, so that no client can give bandwidth to another: it stalls after one
    sweep, up to 27.6 % above the optimum on our worked example.

    Args:
        problem: the round.
        bandwidth_hz: [K], where to start; default: equal shares.
        prune_rate: [K], rates to start from instead, with their best bandwidths.

    Returns:
        Where it stalls.
    """
    bandwidth = start_bandwidth(problem, bandwidth_hz, prune_rate)
    found = allocation_of(problem, pruning_block(problem, bandwidth)[1], bandwidth)
    history = [found.latency_s]
    for _ in range(MOST_SWEEPS):
        # The rate block is the second half of a sweep: it uses what the bandwidth block has won.
        width = bandwidth_block(problem, found.prune_rate)[1]
        after = allocation_of(problem, pruning_block(problem, width)[1], width)
        if not after.latency_s < found.latency_s * (1.0 - _ALTERNATION_TOLERANCE):
            break
        found = after
        history.append(found.latency_s)
    return allocation_of(problem, found.prune_rate, found.bandwidth_hz, tuple(history), len(history) <= MOST_SWEEPS)


def random_pruning(
    problem: RoundProblem, *, seed: int = 0, round_number: int = 0, clients: Sequence[str] | None = None
) -> Allocation:
    """Rates drawn uniformly up to each client's highest, scaled down to the budget, with their best bandwidths.

    Args:
        problem: the round.
        seed: of the draws.
        round_number: the round.
        clients: their names, by which draws are keyed; default: their numbers.

    Returns:
        The allocation.

    Raises:
        UserError: where there are not as many names as clients.
    """
    names = [str(number) for number in range(problem.clients)] if clients is None else clients
    if len(names) != problem.clients:
        raise UserError(f"clients: has {len(names)} names, but there are {problem.clients} clients")
    drawn = np.array([numpy_generator(seed, "random_pruning", round_number, name).random() for name in names])
    rates = drawn * problem.max_prune
    used = float(np.dot(problem.weights, rates))
    return _with_optimal_bandwidth(problem, rates * min(1.0, problem.prune_budget / used) if used > 0.0 else rates)


BASELINES: dict[str, Callable[[RoundProblem], Allocation]] = {
    "no_pruning_equal_bandwidth": no_pruning_equal_bandwidth,
    "no_pruning_optimal_bandwidth": no_pruning_optimal_bandwidth,
    "uniform_pruning_equal_bandwidth": uniform_pruning_equal_bandwidth,
    "uniform_pruning_optimal_bandwidth": uniform_pruning_optimal_bandwidth,
    "random_pruning": random_pruning,
    "optimal_pruning_equal_bandwidth": optimal_pruning_equal_bandwidth,
    "alternation": alternate,
}


def baseline(
    name: str, problem: RoundProblem, *, seed: int = 0, round_number: int = 0, clients: Sequence[str] | None = None
) -> Allocation:
    """The allocation of a baseline.

    Args:
        name: one of `BASELINES`.
        problem: the round.
        seed: of what random_pruning draws.
        round_number: the round, for the same.
        clients: their names, for the same.

    Returns:
        The allocation.

    Raises:
        UserError: for another name.
    """
    if name not in BASELINES:
        raise unknown_name("scheme", name, BASELINES)
    if name == "random_pruning":
        return random_pruning(problem, seed=seed, round_number=round_number, clients=clients)
    return BASELINES[name](problem)


def _equal(problem: RoundProblem) -> Values:
    return np.full(problem.clients, problem.bandwidth_hz / problem.clients)


def _uniform(problem: RoundProblem) -> Values:
    weight = float(problem.weights.sum())
    level = problem.prune_budget / weight if weight > 0.0 else np.inf
    return np.minimum(level, problem.max_prune)


def _with_optimal_bandwidth(problem: RoundProblem, rates: Values) -> Allocation:
    return allocation_of(problem, rates, bandwidth_block(problem, rates)[1])
