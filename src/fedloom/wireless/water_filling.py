"""The bandwidths that need the least pruning to meet a given latency: water-filling under one price for bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.wireless.blocks import prune_rates
from fedloom.wireless.channel import Values, bandwidth_for, rate, rate_slope
from fedloom.wireless.problem import RoundProblem

# Newton's method needs about five steps, its safeguard (halving) at most this many.
_MOST_STEPS = 100
_TOLERANCE = 1e-14


@dataclass(frozen=True, eq=False)
class Filling:
    """The bandwidths of least pruning at a latency.

    Args:
        bandwidth_hz: [K], sums to at most B.
        prune_rate: [K], with which every client finishes in time.
        budget_used: Phi(T) = sum w_k rho_k, the least possible.
        budget_slope: dPhi/dT, negative, of this active set.
        at_bound: whether a client is at its highest rate, or needs none.
        log_price: logarithm of the price, budget for one Hz; where to look for the next one.
    """

    bandwidth_hz: Values
    prune_rate: Values
    budget_used: float
    budget_slope: float
    at_bound: bool
    log_price: float


def fill(problem: RoundProblem, latency_s: float, before: Filling | None = None) -> Filling | None:
    """Minimise sum_k w_k rho_k(T, b_k) over bandwidths, T fixed.

    Between b(rho_max) and b(0), the bandwidths with which a client finishes at T at its highest rate and without
    pruning, every client gets what one more Hz is worth the same to: w_k (T-a_k) S_k r_k'(b) / (c_k r_k + S_k)^2 = nu.
    What a client's Hz is worth falls with b, so the price nu at which the bandwidths sum to B is a root.

    Args:
        problem: the round.
        latency_s: T.
        before: at a neighbouring latency, to begin from.

    Returns:
        The bandwidths; None where not even the highest rates let everybody finish in time.
    """
    low, high = bandwidth_bounds(problem, latency_s)
    band = problem.bandwidth_hz
    if not low.sum() <= band * (1.0 + 1e-13):
        return None
    worth = _Worth(problem, latency_s, low, high)
    # Where there is more than anybody can use, all of it is handed out.
    log_price = worth.lowest if high.sum() <= band else worth.price(None if before is None else before.log_price)
    bandwidth = worth.bandwidth(log_price)
    bandwidth = bandwidth * (band / bandwidth.sum())
    unpruned = problem.unpruned_seconds(bandwidth)
    rates = prune_rates(problem, latency_s, unpruned)
    slope, at_bound = _slope(problem, latency_s, bandwidth, (low, high), unpruned, log_price)
    used = float(np.dot(problem.weights, rates))
    return Filling(bandwidth, rates, used, slope, at_bound, log_price)


def bandwidth_bounds(problem: RoundProblem, latency_s: float) -> tuple[Values, Values]:
    """The bandwidths with which clients finish at T at their highest rate and without pruning.

    Args:
        problem: the round.
        latency_s: T.

    Returns:
        [K] each; the first infinite where a client can't finish in time, the second at most B.
    """
    bounds = []
    for kept in (1.0 - problem.max_prune, np.ones(problem.clients)):
        left = latency_s - problem.fixed_latency_s - kept * problem.compute_s
        needed = kept * problem.upload_bits / np.where(left > 0.0, left, 1.0)
        found = bandwidth_for(needed, problem.channel_gain_hz)
        bounds.append(np.where(left > 0.0, found, np.inf))
    return bounds[0], np.maximum(np.minimum(bounds[1], problem.bandwidth_hz), bounds[0])


class _Worth:
    """What one more Hz is worth to clients at a latency, and what they take at a price; all in logarithms."""

    def __init__(self, problem: RoundProblem, latency_s: float, low: Values, high: Values) -> None:
        self.problem = problem
        with np.errstate(divide="ignore"):
            # Minus infinity for a client without weight, which never gets more than it must have.
            self.scale = np.log(problem.weights * (latency_s - problem.fixed_latency_s) * problem.upload_bits)
        self.low, self.high = low, high
        everybody = np.arange(problem.clients)
        self.at_low = self._log_worth(low, everybody)[0]
        self.at_high = self._log_worth(high, everybody)[0]
        # Between these prices some client is between its bounds; where there is no weight, there is no price.
        self.lowest = float(np.min(self.at_high, where=np.isfinite(self.at_high), initial=math.inf))
        self.highest = float(np.max(self.at_low, where=np.isfinite(self.at_low), initial=-math.inf))
        # From where Newton's method goes on at the next price.
        self.last = np.sqrt(low * high)

    def price(self, start: float | None) -> float:
        """The logarithm of the price at which the bandwidths sum to B, by Newton's method in a bracket."""
        low, high = self.lowest, self.highest
        if low > high:
            return low
        place, excess_before = min(max(0.5 * (low + high) if start is None else start, low), high), math.inf
        for _ in range(_MOST_STEPS):
            total, slope = self._demand(place)
            excess = math.log(total / self.problem.bandwidth_hz)
            low, high = (place, high) if excess > 0.0 else (low, place)
            step = place - excess * total / slope if slope < 0.0 else math.inf
            # Halved where Newton's step leaves the bracket or has stopped to gain: clients come to and leave bounds.
            if not low <= step <= high or abs(excess) > 0.5 * excess_before:
                step = 0.5 * (low + high)
            moved, place, excess_before = abs(step - place), step, abs(excess)
            if moved <= _TOLERANCE * max(abs(place), 1.0):
                break
        return place

    def bandwidth(self, log_price: float) -> Values:
        """What clients take at a price."""
        taken = np.where(log_price >= self.at_low, self.low, self.high)
        free = self._free(log_price)
        if free.size:
            taken[free] = self.last[free] = self._solve(free, log_price)
        return taken

    def _free(self, log_price: float) -> NDArray[np.int64]:
        return np.flatnonzero((log_price < self.at_low) & (log_price > self.at_high))

    def _demand(self, log_price: float) -> tuple[float, float]:
        """What all take together, and its derivative."""
        taken, free = self.bandwidth(log_price), self._free(log_price)
        slope = float(np.sum(taken[free] / self._log_worth(taken[free], free)[1]))
        return float(taken.sum()), slope

    def _solve(self, free: NDArray[np.int64], log_price: float) -> Values:
        low, high = np.log(self.low[free]), np.log(self.high[free])
        place = np.clip(np.log(self.last[free]), low, high)
        for _ in range(_MOST_STEPS):
            worth, slope = self._log_worth(np.exp(place), free)
            above = worth > log_price
            low, high = np.where(above, place, low), np.where(above, high, place)
            step = place - (worth - log_price) / slope
            # Newton's step where it stays in the bracket, else its middle.
            step = np.where((step >= low) & (step <= high), step, 0.5 * (low + high))
            moved = np.abs(step - place)
            place = step
            # A worth is known to some units of rounding, and a place to as much over the slope.
            if np.all(moved <= _TOLERANCE * np.maximum(np.abs(place), 1.0) * (1.0 - 1.0 / slope)):
                break
        found: Values = np.exp(place)
        return found

    def _log_worth(self, bandwidth: Values, clients: NDArray[np.int64]) -> tuple[Values, Values]:
        """The logarithm of the worth, and its derivative by that of the bandwidth."""
        gain, compute = self.problem.channel_gain_hz[clients], self.problem.compute_s[clients]
        ratio = gain / bandwidth
        bits, slope = rate(bandwidth, gain), rate_slope(bandwidth, gain)
        time = compute * bits + self.problem.upload_bits[clients]
        worth = self.scale[clients] + np.log(slope) - 2.0 * np.log(time)
        # b r'' = -x^2 / ((1+x)^2 ln 2)
        curvature = -np.square(ratio / (1.0 + ratio)) / math.log(2.0)
        return worth, curvature / slope - 2.0 * compute * bandwidth * slope / time


def _slope(
    problem: RoundProblem,
    latency_s: float,
    bandwidth: Values,
    bounds: tuple[Values, Values],
    unpruned: Values,
    log_price: float,
) -> tuple[float, bool]:
    """DPhi/dT by the envelope theorem, and whether a client is at a bound of its rate.

    A client between its bounds keeps its bandwidth and needs w_k/(c_k + S_k/r_k) less; one at a bound keeps its rate
    and frees bandwidth, which is worth the price.
    """
    price = math.exp(log_price)
    low, high = bounds
    at_low = bandwidth <= low * (1.0 + 1e-9)
    at_high = ~at_low & (bandwidth >= high * (1.0 - 1e-9)) & (high < problem.bandwidth_hz)
    free = ~(at_low | at_high)
    slope = -float(np.sum(problem.weights[free] / unpruned[free]))
    for clients, kept in ((at_low, 1.0 - problem.max_prune), (at_high, np.ones(problem.clients))):
        if np.any(clients):
            gain, width = problem.channel_gain_hz[clients], bandwidth[clients]
            left = (latency_s - problem.fixed_latency_s - kept * problem.compute_s)[clients]
            freed = rate(width, gain) / (left * rate_slope(width, gain))
            slope -= price * float(freed.sum())
    return slope, not bool(np.all(free))
