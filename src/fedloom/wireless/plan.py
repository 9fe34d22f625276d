"""Planning a network: every scheme on one round of a scenario, and over what one of its values may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedloom.errors import UserError, unknown_name
from fedloom.wireless.allocation import Allocation
from fedloom.wireless.baselines import BASELINES, baseline
from fedloom.wireless.channel import Values, rate
from fedloom.wireless.descent import solve
from fedloom.wireless.network import Network
from fedloom.wireless.problem import RoundProblem
from fedloom.wireless.scenario import Scenario, check_scenario
from fedloom.wireless.total import TotalPlan, solve_total

OURS = "jcpba"
NAMES = {
    OURS: "JCPBA: rates and bandwidths together",
    "alternation": "plain alternation of the two",
    "optimal_pruning_equal_bandwidth": "best rates, equal bandwidth",
    "random_pruning": "random rates, best bandwidth",
    "uniform_pruning_optimal_bandwidth": "one rate, best bandwidth",
    "uniform_pruning_equal_bandwidth": "one rate, equal bandwidth",
    "no_pruning_optimal_bandwidth": "no pruning, best bandwidth",
    "no_pruning_equal_bandwidth": "no pruning, equal bandwidth",
}
# What can be varied, and where it stands in a scenario.
VARIABLES = {"bandwidth": "cell.bandwidth_hz", "budget": "pruning.budget", "clients": "clients"}
_FACTORS = {"bandwidth": (0.25, 0.5, 1.0, 2.0, 4.0), "clients": (0.5, 1.0, 2.0, 4.0, 8.0)}
_BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True, eq=False)
class Plan:
    """Every scheme's allocation in one round.

    Args:
        network: whose clients they are for.
        round_number: the round.
        problem: of this round.
        schemes: allocations by name, ours first.
        total: the budget of the shortest fine-tuning, where the scenario asks for it.
    """

    network: Network
    round_number: int
    problem: RoundProblem
    schemes: dict[str, Allocation]
    total: TotalPlan | None


@dataclass(frozen=True, eq=False)
class Sweep:
    """Latencies of every scheme over the values of one variable.

    Args:
        scenario: where the other values are from.
        variable: one of `VARIABLES`.
        values: of it.
        rounds: over whose channels latencies are means.
        latency_s: by scheme, one mean for each value.
    """

    scenario: Scenario
    variable: str
    values: tuple[float, ...]
    rounds: int
    latency_s: dict[str, list[float]]


def plan_round(scenario: Scenario, round_number: int = 0) -> Plan:
    """Solve one round of a scenario by every scheme.

    Args:
        scenario: the network.
        round_number: whose channels.

    Returns:
        The plan.
    """
    network = Network(scenario)
    problem = network.problem(round_number)
    total = None
    if scenario.total is not None:
        total = solve_total(
            problem.with_values(prune_budget=float(np.dot(problem.weights, problem.max_prune))),
            rounds_unpruned=scenario.total.rounds_unpruned,
            pruning_cost=scenario.total.pruning_cost,
        )
    return Plan(network, round_number, problem, _schemes(network, problem, round_number), total)


def sweep_variable(scenario: Scenario, variable: str, values: Sequence[float] = (), rounds: int = 10) -> Sweep:
    """Solve a scenario with several values of one variable, by every scheme.

    Args:
        scenario: the network.
        variable: bandwidth, budget or clients.
        values: of it; default: around the scenario's own.
        rounds: each a draw of the channels, over which latencies are averaged.

    Returns:
        The latencies.

    Raises:
        UserError: for another variable, or a value that can't be.
    """
    if variable not in VARIABLES:
        raise unknown_name("--vary", variable, VARIABLES)
    if rounds < 1:
        raise UserError(f"--rounds: {rounds} is not a number from 1 up")
    if variable == "clients" and scenario.trace is not None:
        raise UserError("--vary clients has no effect with a trace, which has clients of its own")
    chosen = tuple(values) or _around(scenario, variable)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for value in chosen:
        network = Network(_with(scenario, variable, value))
        for name in NAMES:
            found[name].append(0.0)
        for number in range(rounds):
            for name, one in _schemes(network, network.problem(number), number).items():
                found[name][-1] += one.latency_s / rounds
    return Sweep(scenario, variable, chosen, rounds, found)


def client_times(problem: RoundProblem, allocation: Allocation) -> tuple[Values, Values, Values]:
    """What the clients' latencies are made of.

    Args:
        problem: the round.
        allocation: of a scheme.

    Returns:
        [K] seconds each: the broadcast, computing, sending.
    """
    kept = 1.0 - allocation.prune_rate
    bits = rate(allocation.bandwidth_hz, problem.channel_gain_hz)
    return problem.fixed_latency_s, kept * problem.compute_s, kept * problem.upload_bits / bits


def plan_values(plan: Plan) -> dict[str, Any]:
    """A plan for programs.

    Args:
        plan: the plan.

    Returns:
        What JSON can hold: the problem, and every scheme's allocation by client.
    """
    problem = plan.problem
    each = ("channel_gain_hz", "fixed_latency_s", "compute_s", "upload_bits", "weights", "max_prune")
    total = plan.total
    return {
        "scenario": plan.network.scenario.model_dump(mode="json"),
        "round": plan.round_number,
        "clients": list(plan.network.clients),
        "problem": {
            **{name: getattr(problem, name).tolist() for name in each},
            "bandwidth_hz": problem.bandwidth_hz,
            "prune_budget": problem.prune_budget,
        },
        "schemes": {
            name: {
                "latency_s": one.latency_s,
                "prune_rate": one.prune_rate.tolist(),
                "bandwidth_hz": one.bandwidth_hz.tolist(),
                "client_latency_s": one.client_latency_s.tolist(),
            }
            for name, one in plan.schemes.items()
        },
        "total": None
        if total is None
        else {"prune_budget": total.prune_budget, "rounds": total.rounds, "total_latency_s": total.total_latency_s},
    }


def sweep_values(found: Sweep) -> dict[str, Any]:
    """A sweep for programs.

    Args:
        found: the sweep.

    Returns:
        What JSON can hold.
    """
    return {
        "scenario": found.scenario.model_dump(mode="json"),
        "variable": VARIABLES[found.variable],
        "values": list(found.values),
        "rounds": found.rounds,
        "latency_s": found.latency_s,
    }


def _schemes(network: Network, problem: RoundProblem, number: int) -> dict[str, Allocation]:
    seed, clients = network.scenario.seed, network.clients
    others = {name: baseline(name, problem, seed=seed, round_number=number, clients=clients) for name in BASELINES}
    return {OURS: solve(problem), **{name: others[name] for name in NAMES if name != OURS}}


def _around(scenario: Scenario, variable: str) -> tuple[float, ...]:
    if variable == "budget":
        return _BUDGETS
    middle = scenario.cell.bandwidth_hz if variable == "bandwidth" else scenario.clients
    values = [factor * middle for factor in _FACTORS[variable]]
    return tuple(dict.fromkeys(math.ceil(value) for value in values)) if variable == "clients" else tuple(values)


def _with(scenario: Scenario, variable: str, value: float) -> Scenario:
    values: dict[str, Any] = scenario.model_dump(mode="python", exclude_unset=True)
    section, _, key = VARIABLES[variable].rpartition(".")
    # A whole number of clients; anything else is told as in a scenario.
    number = int(value) if variable == "clients" and math.isfinite(value) and value == int(value) else value
    if section:
        values[section] = {**values.get(section, {}), key: number}
    else:
        values[key] = number
    return check_scenario(values)
