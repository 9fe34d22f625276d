"""The wireless solver: clients in one call, from ten to a million on one thread, and beside SciPy's SLSQP at fifty.

Clients of one cell with Rayleigh fading, the default scenario's devices, work and budget, and 2 MHz for each. SLSQP
gets the same problem as a program of variables T, rho, b in units near one, with exact derivatives, from equal
bandwidth and no pruning; it is given as many iterations as it wants.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from rich.table import Table
from scipy.optimize import minimize

from fedloom.wireless import BASELINES, RoundProblem, baseline, solve, solve_exact
from fedloom.wireless.channel import decibels_to_ratio, path_loss_db, rate, rate_slope
from harness import Target, arguments_of, finish, median_timing, take_turns

NAME = "wireless"
SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
# Seconds that a call may take.
LIMITS = {10_000: 1.0, 1_000_000: 120.0}
BAND_OF_EACH = 2e6
# Of many clients, the one in the deepest fade decides alone, which is easy; without such ones all have a say.
NO_DEEP_FADE = 1e7
COMPARED = 50


def problem_of(clients: int, least_gain: float = 0.0) -> RoundProblem:
    """A round of a cell with so many clients, none with a channel below the least gain in Hz."""
    generator = np.random.default_rng(0)
    loss = path_loss_db(generator.uniform(0.05, 0.5, clients))
    gain = decibels_to_ratio(23 - 30 - loss) * generator.exponential(size=clients) / decibels_to_ratio(-174 - 30)
    examples = generator.integers(100, 500, clients)
    return RoundProblem(
        channel_gain_hz=np.maximum(gain, least_gain),
        fixed_latency_s=0.1,
        compute_s=examples * 128 * 497_769_472 / generator.uniform(1e12, 4e12, clients),
        upload_bits=9_437_184,
        weights=examples / examples.sum(),
        bandwidth_hz=BAND_OF_EACH * clients,
        prune_budget=0.3,
        max_prune=0.8,
    )


def by_slsqp(problem: RoundProblem) -> float:
    """The latency that SLSQP finds, with its violation of the clients' deadlines added."""
    clients, unit = problem.clients, problem.bandwidth_hz / problem.clients
    each = np.arange(clients)

    def parts(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        return x[0], x[1 : 1 + clients], x[1 + clients :] * unit

    def deadlines(x: np.ndarray) -> np.ndarray:
        latency, rates, width = parts(x)
        return latency - problem.client_latency(rates, width)

    def deadline_slopes(x: np.ndarray) -> np.ndarray:
        _, rates, width = parts(x)
        gain = problem.channel_gain_hz
        slopes = np.zeros((clients, 1 + 2 * clients))
        slopes[:, 0] = 1.0
        slopes[each, 1 + each] = problem.unpruned_seconds(width)
        sent = problem.upload_bits * rate_slope(width, gain) / np.square(rate(width, gain))
        slopes[each, 1 + clients + each] = (1.0 - rates) * sent * unit
        return slopes

    weights = np.concatenate([[0.0], -problem.weights, np.zeros(clients)])
    shares = np.concatenate([np.zeros(1 + clients), -np.ones(clients)])
    rules = [
        {"type": "ineq", "fun": deadlines, "jac": deadline_slopes},
        {"type": "ineq", "fun": lambda x: problem.prune_budget + weights @ x, "jac": lambda x: weights},
        {"type": "ineq", "fun": lambda x: clients + shares @ x, "jac": lambda x: shares},
    ]
    first = np.eye(1 + 2 * clients)[0]
    width = np.full(clients, unit)
    start = np.concatenate([[problem.client_latency(np.zeros(clients), width).max()], np.zeros(clients), width / unit])
    limits = [(0.0, None)] + [(0.0, most) for most in problem.max_prune] + [(1e-4, None)] * clients
    options = {"maxiter": 1000, "ftol": 1e-10}
    found = minimize(
        lambda x: x[0], start, jac=lambda x: first, bounds=limits, constraints=rules, method="SLSQP", options=options
    )
    return float(found.x[0] + max(0.0, -deadlines(found.x).min()))


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    sizes = SIZES[:3] if arguments.quick else SIZES
    repetitions = 1 if arguments.quick else 3
    targets, rows = [], []
    scale = Table("clients", "wall s", "CPU s", "sweeps", "latency s", title="solve, one thread")
    for clients, least_gain in [(clients, 0.0) for clients in sizes] + [(sizes[-1], NO_DEEP_FADE)]:
        problem = problem_of(clients, least_gain)
        taken = median_timing(take_turns({"solve": lambda problem=problem: solve(problem)}, repetitions, 0)["solve"])
        found = solve(problem)
        sweeps = len(found.history) - 1
        row = (f"{taken.wall:.4f}", f"{taken.cpu:.4f}", f"{sweeps}", f"{found.latency_s:.4f}")
        title = f"{clients:,}{', no deep fades' if least_gain else ''}"
        scale.add_row(title, *row)
        rows.append(
            {"clients": clients, "least_gain_hz": least_gain, "wall": taken.wall, "cpu": taken.cpu, "sweeps": sweeps}
        )
        if clients in LIMITS:
            targets.append(Target(f"{title} clients: CPU seconds", taken.cpu, LIMITS[clients], at_most=True))
    problem = problem_of(COMPARED)
    sides = {"solve": lambda: solve(problem), "solve_exact": lambda: solve_exact(problem)}
    latency = {"solve": solve(problem).latency_s, "solve_exact": solve_exact(problem).latency_s}
    sides["SLSQP"] = lambda: by_slsqp(problem)
    latency["SLSQP"] = by_slsqp(problem)
    times = {name: median_timing(taken) for name, taken in take_turns(sides, repetitions, 0).items()}
    beside = Table("method", "CPU s", "latency s", "above solve", title=f"{COMPARED} clients")
    for name in [*sides, *BASELINES]:
        reached = latency.setdefault(name, baseline(name, problem).latency_s if name in BASELINES else np.nan)
        spent = f"{times[name].cpu:.4f}" if name in times else ""
        beside.add_row(name, spent, f"{reached:.6f}", f"{reached / latency['solve'] - 1:.1e}")
    targets.append(
        Target("solve above the exact solver, relatively", latency["solve"] / latency["solve_exact"] - 1, 1e-6, True)
    )
    targets.append(Target("solve above SLSQP, relatively", latency["solve"] / latency["SLSQP"] - 1, 1e-6, True))
    cpu = {name: one.cpu for name, one in times.items()}
    finish(NAME, arguments, [scale, beside], targets=targets, scale=rows, latency_s=latency, cpu_s=cpu)


if __name__ == "__main__":
    main()
