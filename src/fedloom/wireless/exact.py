"""The exact solver: a search for T alone, slow and plain, that the descent is tested against."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from fedloom.wireless.allocation import Allocation, allocation_of
from fedloom.wireless.blocks import bandwidth_block, least_rates, pruning_block
from fedloom.wireless.problem import RoundProblem
from fedloom.wireless.water_filling import fill

_TOLERANCE = 1e-13
_NUDGES = (0.0, 1e-13, 2e-13, 4e-13, 1e-12, 1e-11, 1e-10, 1e-9)


def solve_exact(problem: RoundProblem) -> Allocation:
    """Find the round's least latency T as the root of Phi(T) = Gamma, Phi(T) the least budget that T needs.

    Phi falls with T, from the latency at the highest rates, where it is sum w_k rho_max_k, to the latency without
    pruning that counts, where it is 0; both ends are known (`bandwidth_block`), so the root is bracketed.

    Args:
        problem: the round.

    Returns:
        The optimum.
    """
    least = least_rates(problem)
    low, low_bandwidth = bandwidth_block(problem, problem.max_prune)
    high, high_bandwidth = bandwidth_block(problem, least)

    def lacking(latency: float) -> float:
        filling = fill(problem, latency)
        return 1.0 if filling is None else filling.budget_used - problem.prune_budget

    if float(np.dot(problem.weights, problem.max_prune)) <= problem.prune_budget:
        return allocation_of(problem, problem.max_prune.copy(), low_bandwidth)
    if lacking(high) >= 0.0:
        return allocation_of(problem, least, high_bandwidth)
    # At the lower end rounding may hide what separates the root from it.
    latency = low
    if lacking(low) > 0.0:
        latency = float(brentq(lacking, low, high, xtol=_TOLERANCE * low, rtol=_TOLERANCE))
    # The root is known to rounding, and the budget may be steep there: the first latency beside it that keeps it.
    for nudge in _NUDGES:
        filling = fill(problem, latency * (1.0 + nudge))
        if filling is not None and filling.budget_used <= problem.prune_budget:
            break
    else:
        return allocation_of(problem, least, high_bandwidth)
    return allocation_of(problem, pruning_block(problem, filling.bandwidth_hz)[1], filling.bandwidth_hz)
