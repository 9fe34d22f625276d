"""The two blocks of problem P1: bandwidths for given rates, and rates for given bandwidths; each solved exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from fedloom.wireless.channel import LN2, Values, bandwidth_for
from fedloom.wireless.problem import RoundProblem


def bandwidth_block(problem: RoundProblem, prune_rate: Values) -> tuple[float, Values]:
    """The bandwidths that minimise the round's latency at given rates.

    The root T of sum_k b_k((1-rho_k) S_k / (T - a_k - (1-rho_k) c_k)) = B, b_k(r) the inverse rate: with it every
    client finishes at T. The sum falls with T nearly as a power of T - T_0, T_0 the latency with infinite bandwidth,
    so the root is looked for in their logarithms.

    Args:
        problem: the round.
        prune_rate: [K] rho.

    Returns:
        T in seconds, and [K] bandwidths that sum to B.
    """
    kept = 1.0 - prune_rate
    fixed, bits = problem.fixed_latency_s + kept * problem.compute_s, kept * problem.upload_bits
    floor = float((fixed + bits * LN2 / problem.channel_gain_hz).max())
    band = problem.bandwidth_hz

    def needed(log_excess: float) -> Values:
        return bandwidth_for(bits / (floor - fixed + math.exp(log_excess)), problem.channel_gain_hz)

    def excess(log_excess: float) -> float:
        return math.log(float(needed(log_excess).sum()) / band)

    root = _falling_root(excess, math.log(problem.clients * float(bits.max()) / band))
    bandwidth = needed(root)
    return floor + math.exp(root), bandwidth * (band / bandwidth.sum())


def pruning_block(problem: RoundProblem, bandwidth_hz: Values) -> tuple[float, Values]:
    """The rates that minimise the round's latency at given bandwidths.

    rho_k(T) = [1 - (T - a_k)/(c_k + S_k/r_k)]^+ at the smallest T within rho_max and the budget. What the budget
    needs is piecewise linear in T: clients leave at T = a_k + c_k + S_k/r_k, in whose order the pieces are summed.

    Args:
        problem: the round.
        bandwidth_hz: [K] b, positive.

    Returns:
        T in seconds, and [K] rates.
    """
    unpruned = problem.unpruned_seconds(bandwidth_hz)
    leaves = problem.fixed_latency_s + unpruned
    order = np.argsort(-leaves, kind="stable")
    slope = np.cumsum((problem.weights / unpruned)[order])
    height = np.cumsum((problem.weights * (leaves / unpruned))[order])
    # Budget needed where the next client leaves: rises along the order, from 0.
    needed = height - leaves[order] * slope
    last = max(int(np.searchsorted(needed, problem.prune_budget, side="right")) - 1, 0)
    by_budget = -math.inf
    if slope[last] > 0.0:
        by_budget = float((height[last] - problem.prune_budget) / slope[last])
        # The sums cancel where fixed latencies are long: one step of Newton's method mends what they have lost.
        taken = prune_rates(problem, by_budget, unpruned, clipped=False)
        by_budget += float((np.dot(problem.weights, taken) - problem.prune_budget) / slope[last])
    by_rate = float((problem.fixed_latency_s + (1.0 - problem.max_prune) * unpruned).max())
    latency = max(by_budget, by_rate)
    return latency, prune_rates(problem, latency, unpruned)


def least_rates(problem: RoundProblem) -> Values:
    """The rates that use no budget: none, but the highest of clients without weight.

    Args:
        problem: the round.

    Returns:
        [K].
    """
    return np.where(problem.weights > 0.0, 0.0, problem.max_prune)


def prune_rates(problem: RoundProblem, latency_s: float, unpruned_s: Values, clipped: bool = True) -> Values:
    """The smallest rates with which clients finish in time, [1 - (T - a_k)/(c_k + S_k/r_k)]^+.

    Args:
        problem: the round.
        latency_s: T.
        unpruned_s: [K] c_k + S_k/r_k.
        clipped: whether at most rho_max, against rounding.

    Returns:
        [K].
    """
    rates = np.maximum(1.0 - (latency_s - problem.fixed_latency_s) / unpruned_s, 0.0)
    return np.minimum(rates, problem.max_prune) if clipped else rates


def _falling_root(function: Callable[[float], float], start: float) -> float:
    """The root of a function that falls from above to below zero, by Brent's method in a bracket grown from a start."""
    reach, low, high = 1.0, start, start
    if function(start) > 0.0:
        while function(high) > 0.0:
            low, high, reach = high, high + reach, 2.0 * reach
    else:
        while function(low) < 0.0:
            low, high, reach = low - reach, low, 2.0 * reach
    return float(brentq(function, low, high, xtol=1e-14, rtol=1e-14)) if low < high else start
