"""The block coordinate descent that solves problem P1, started anywhere and ending at its global optimum."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedloom.errors import UserError
from fedloom.wireless.allocation import Allocation, allocation_of
from fedloom.wireless.blocks import bandwidth_block, least_rates, pruning_block
from fedloom.wireless.channel import Values
from fedloom.wireless.problem import RoundProblem
from fedloom.wireless.water_filling import Filling, fill

MOST_SWEEPS = 100
# A thousandth of what two correct programs may differ by: as sweeps converge quadratically, it costs one more.
TOLERANCE = 1e-10


def solve(
    problem: RoundProblem,
    *,
    bandwidth_hz: Values | None = None,
    prune_rate: Values | None = None,
    tolerance: float = TOLERANCE,
) -> Allocation:
    """Minimise the round's latency over pruning rates and bandwidths.

    The goal and "block coordinate descent" are those of arXiv 2602.01024; the steps are our own derivation. Plain
    alternation of rates and bandwidths stalls (`alternate`), because after the first block all latencies are equal.
    Here the latency T stays a variable. A sweep is

        (T, rho | b)    the smallest T and its rates for these bandwidths,
        (b | T)         the bandwidths with which T needs the least pruning, which opens slack in the budget.

    Phi(T), the least budget that T needs, is a minimum of functions of b that are affine in T as long as no rate is at
    a bound; a sweep is then Newton's method on Phi(T) = Gamma from above, and any fixed point is the global optimum.
    A client at its highest rate gets exactly the bandwidth that T needs, so the first step can't lower T: a second
    trap. Sweeps that end with rates at bounds therefore also try the T at which Newton's method on Phi itself aims, in
    which such clients keep their rate and their bandwidth follows T. Where that T turns out to need more than the
    budget it is a lower bound of the optimum: the next trial is where Newton's method aims from there, or halfway.

    Args:
        problem: the round.
        bandwidth_hz: [K], where to start; default: equal shares.
        prune_rate: [K], rates to start from instead, with their best bandwidths.
        tolerance: the descent ends when T is closer than this, relatively, to the optimum.

    Returns:
        The optimum; `history` has T after the start and after every sweep and never rises.

    Raises:
        UserError: where a start is given twice or is not feasible.
    """
    least = least_rates(problem)
    floor, floor_bandwidth = bandwidth_block(problem, problem.max_prune)
    ceiling, ceiling_bandwidth = bandwidth_block(problem, least)
    if float(np.dot(problem.weights, problem.max_prune)) <= problem.prune_budget:
        # The budget allows every client its highest rate: only bandwidths are left to choose.
        return allocation_of(problem, problem.max_prune.copy(), floor_bandwidth)
    if problem.prune_budget == 0.0:
        return allocation_of(problem, least, ceiling_bandwidth)
    bandwidth = start_bandwidth(problem, bandwidth_hz, prune_rate)
    latency, rates = pruning_block(problem, bandwidth)
    history, below = [latency], floor
    if latency > ceiling:
        # The budget is no bound up there, and nothing can be learnt from its slack.
        latency, rates, bandwidth = ceiling, least, ceiling_bandwidth
        history.append(latency)
    filling: Filling | None = None
    # The filling at `below`, where the budget does not suffice.
    short = fill(problem, floor)
    converged = False
    while len(history) <= MOST_SWEEPS:
        filling = fill(problem, latency, filling)
        if filling is None or min(_newton(problem, filling), latency - below) <= tolerance * latency:
            converged = True
            break
        tried = [filling]
        if filling.at_bound:
            aims = [] if short is None else [below - _newton(problem, short)]
            aims += [latency - _newton(problem, filling), 0.5 * (below + latency)]
            aim = next(one for one in aims if below < one <= latency)
            trial = fill(problem, aim, filling)
            if trial is None or trial.budget_used > problem.prune_budget:
                below, short = aim, trial
            if trial is not None:
                tried.append(trial)
        for one in tried:
            found, found_rates = pruning_block(problem, one.bandwidth_hz)
            if found < latency:
                bandwidth, rates, latency = one.bandwidth_hz, found_rates, found
        history.append(latency)
    # The last filling has no client that gets more than it needs, so all end at T. There is none where only rounding
    # separates T from the latency at the highest rates, and rounding may also show where the budget is steep.
    if converged and filling is not None and filling.budget_used <= problem.prune_budget * (1.0 + 1e-12):
        bandwidth, rates = filling.bandwidth_hz, filling.prune_rate
    return allocation_of(problem, rates, bandwidth, tuple(history), converged)


def _newton(problem: RoundProblem, filling: Filling) -> float:
    """How far Newton's method on Phi(T) = Gamma lowers T: infinite where Phi does not depend on T, negative below."""
    slack = problem.prune_budget - filling.budget_used
    return slack / -filling.budget_slope if filling.budget_slope < 0.0 else math.copysign(math.inf, slack)


def start_bandwidth(problem: RoundProblem, bandwidth_hz: Values | None, prune_rate: Values | None) -> Values:
    """The bandwidths a descent starts from.

    Args:
        problem: the round.
        bandwidth_hz: [K] of them, positive, or None.
        prune_rate: [K] rates whose best bandwidths are taken, or None.

    Returns:
        [K]; equal shares where neither is given.

    Raises:
        UserError: where both are given, or one is not feasible.
    """
    if bandwidth_hz is not None and prune_rate is not None:
        raise UserError("start: takes bandwidth_hz or prune_rate, not both")
    if prune_rate is not None:
        rates = _per_client(problem, "prune_rate", prune_rate)
        _refuse("prune_rate", rates, (rates < 0.0) | (rates > problem.max_prune), "between 0 and max_prune")
        return bandwidth_block(problem, rates)[1]
    if bandwidth_hz is not None:
        bandwidth = _per_client(problem, "bandwidth_hz", bandwidth_hz)
        _refuse("bandwidth_hz", bandwidth, ~(bandwidth > 0.0), "above 0")
        if bandwidth.sum() > problem.bandwidth_hz * (1.0 + 1e-9):
            raise UserError(
                f"bandwidth_hz: sums to {bandwidth.sum():g}, above the {problem.bandwidth_hz:g} Hz there are"
            )
        return bandwidth
    return np.full(problem.clients, problem.bandwidth_hz / problem.clients)


def _per_client(problem: RoundProblem, name: str, values: Values) -> Values:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (problem.clients,):
        raise UserError(f"{name}: has the shape {list(found.shape)}, but there are {problem.clients} clients")
    return found


def _refuse(name: str, values: Values, wrong: NDArray[np.bool_], wanted: str) -> None:
    if np.any(wrong | ~np.isfinite(values)):
        index = int(np.flatnonzero(wrong | ~np.isfinite(values))[0])
        raise UserError(f"{name}[{index}]: {values[index]:g} is not {wanted}")
