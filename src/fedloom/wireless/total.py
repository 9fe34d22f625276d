"""The whole fine-tuning: how much pruning is worth its further rounds (problem P1')."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from fedloom.errors import UserError
from fedloom.wireless.allocation import Allocation
from fedloom.wireless.descent import solve
from fedloom.wireless.problem import RoundProblem

# The product need not have one valley only: a grid finds the deepest, a search its bottom.
_GRID = 33
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class TotalPlan:
    """The best budget for a whole fine-tuning.

    Args:
        allocation: of every round.
        prune_budget: Gamma, all of which the allocation uses.
        rounds: R(Gamma), not rounded.
        total_latency_s: R(Gamma) T(Gamma).
    """

    allocation: Allocation
    prune_budget: float
    rounds: float
    total_latency_s: float


def rounds_needed(rounds_unpruned: float, pruning_cost: float, used: float) -> float:
    """Rounds until the target at an average pruning of `used`, R_0 / (1 - kappa sum w_k rho_k).

    From the bound on the mean squared gradient of pruned federated SGD with an error of pruning of at most rho_k D^2:
    2(F_0 - F*)/(eta R) + L eta sigma^2 sum w_k^2 + L^2 D^2 sum w_k rho_k, held at the target.

    Args:
        rounds_unpruned: R_0.
        pruning_cost: kappa.
        used: sum w_k rho_k, below 1/kappa.

    Returns:
        R, not rounded.
    """
    return rounds_unpruned / (1.0 - pruning_cost * used)


def solve_total(problem: RoundProblem, *, rounds_unpruned: float, pruning_cost: float) -> TotalPlan:
    """Minimise R(Gamma) T(Gamma) over the budget, T(Gamma) by `solve`.

    Args:
        problem: the round; its budget is the largest that is considered.
        rounds_unpruned: R_0, rounds until the target without pruning; positive.
        pruning_cost: kappa, at least 0: what pruning adds to the rounds.

    Returns:
        The best plan.

    Raises:
        UserError: naming the argument that is no such number.
    """
    if not (math.isfinite(rounds_unpruned) and rounds_unpruned > 0.0):
        raise UserError(f"rounds_unpruned: {rounds_unpruned:g} is not a number above 0")
    if not (math.isfinite(pruning_cost) and pruning_cost >= 0.0):
        raise UserError(f"pruning_cost: {pruning_cost:g} is not a number from 0 up")
    largest = min(problem.prune_budget, float(np.dot(problem.weights, problem.max_prune)))
    if pruning_cost * largest >= 1.0:
        # At 1/kappa the target is never reached.
        largest = (1.0 - 1e-9) / pruning_cost

    def plan(budget: float) -> TotalPlan:
        budget = float(min(max(budget, 0.0), largest))
        found = solve(problem.with_values(prune_budget=budget))
        rounds = rounds_needed(rounds_unpruned, pruning_cost, budget)
        return TotalPlan(found, budget, rounds, rounds * found.latency_s)

    grid = np.linspace(0.0, largest, _GRID) if largest > 0.0 else np.zeros(1)
    plans = [plan(budget) for budget in grid]
    place = int(np.argmin([one.total_latency_s for one in plans]))
    best = plans[place]
    if len(grid) > 1:
        within = (grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)])
        options = {"xatol": _TOLERANCE * largest}
        lowest = minimize_scalar(
            lambda budget: plan(budget).total_latency_s, bounds=within, method="bounded", options=options
        )
        best = min(best, plan(lowest.x), key=lambda one: one.total_latency_s)
    return best
