"""The descent is at the optimum, on hard random problems too, and what must hold of every answer holds."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from scipy.optimize import minimize

from fedloom.wireless import BASELINES, RoundProblem, baseline, solve, solve_exact, with_whole_units
from tests.wireless.problems import moderate_problems, random_problem, worked_example

few = settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])


def check_feasible(problem: RoundProblem, found) -> None:
    assert np.all(found.bandwidth_hz > 0)
    assert found.bandwidth_hz.sum() == pytest.approx(problem.bandwidth_hz, rel=1e-9)
    assert np.all(found.prune_rate >= -1e-9)
    assert np.all(found.prune_rate <= problem.max_prune + 1e-9)
    assert problem.weights @ found.prune_rate <= problem.prune_budget + 1e-9
    np.testing.assert_allclose(
        problem.client_latency(found.prune_rate, found.bandwidth_hz), found.client_latency_s, rtol=1e-12
    )
    assert found.latency_s == found.client_latency_s.max()


def check_optimal(problem: RoundProblem) -> None:
    found, exact = solve(problem), solve_exact(problem)
    assert found.converged
    check_feasible(problem, found)
    check_feasible(problem, exact)
    assert found.latency_s == pytest.approx(exact.latency_s, rel=1e-6)
    assert np.all(np.diff(found.history) <= 0)
    assert found.history[-1] == pytest.approx(found.latency_s, rel=1e-9)
    for name in BASELINES:
        other = baseline(name, problem)
        check_feasible(problem, other)
        assert found.latency_s <= other.latency_s * (1 + 1e-9), name


@pytest.mark.parametrize("block", range(4))
def test_random_problems(block):
    generator = np.random.default_rng(block)
    for _ in range(15):
        check_optimal(random_problem(generator))


@pytest.mark.slow
def test_a_thousand_random_problems():
    generator = np.random.default_rng(1000)
    for _ in range(1000):
        check_optimal(random_problem(generator))


@given(moderate_problems())
@few
def test_ordinary_problems(problem):
    check_optimal(problem)
    found = solve(problem)
    if problem.prune_budget < problem.max_prune[0]:
        # The budget binds, so all end together.
        np.testing.assert_allclose(found.client_latency_s, found.latency_s, rtol=1e-9)
        assert problem.weights @ found.prune_rate == pytest.approx(problem.prune_budget, abs=1e-7)


@given(moderate_problems())
@few
def test_more_of_anything_shared_helps_and_more_work_hurts(problem):
    latency = solve(problem).latency_s
    slack = 1 + 1e-8
    assert solve(problem.with_values(prune_budget=problem.prune_budget + 0.05)).latency_s <= latency * slack
    assert solve(problem.with_values(bandwidth_hz=1.3 * problem.bandwidth_hz)).latency_s <= latency * slack
    assert solve(problem.with_values(upload_bits=1.3 * problem.upload_bits)).latency_s * slack >= latency
    assert solve(problem.with_values(compute_s=1.3 * problem.compute_s)).latency_s * slack >= latency


@given(moderate_problems())
@few
def test_order_and_units_do_not_matter(problem):
    found = solve(problem)
    order = np.arange(problem.clients)[::-1]
    each = ("channel_gain_hz", "fixed_latency_s", "compute_s", "upload_bits", "weights", "max_prune")
    turned = solve(problem.with_values(**{name: getattr(problem, name)[order] for name in each}))
    assert turned.latency_s == pytest.approx(found.latency_s, rel=1e-9)
    np.testing.assert_allclose(turned.prune_rate, found.prune_rate[order], atol=1e-6)
    np.testing.assert_allclose(turned.bandwidth_hz, found.bandwidth_hz[order], rtol=1e-6)
    scaled = {name: 7.0 * getattr(problem, name) for name in ("fixed_latency_s", "compute_s", "upload_bits")}
    assert solve(problem.with_values(**scaled)).latency_s == pytest.approx(7.0 * found.latency_s, rel=1e-9)


def test_without_a_budget_it_is_the_best_bandwidth():
    problem = worked_example(prune_budget=0.0)
    found, expected = solve(problem), baseline("no_pruning_optimal_bandwidth", problem)
    assert found.latency_s == pytest.approx(expected.latency_s, rel=1e-9)
    np.testing.assert_array_equal(found.prune_rate, 0.0)


def test_a_client_without_weight_is_pruned_for_nothing():
    free = solve(worked_example(weights=[0.0, 0.5, 0.5], prune_budget=0.0))
    np.testing.assert_array_equal(free.prune_rate, [0.8, 0.0, 0.0])
    problem = worked_example(weights=[0.0, 0.5, 0.5], prune_budget=0.1)
    found = solve(problem)
    check_optimal(problem)
    assert found.latency_s < solve(worked_example(weights=[0.1, 0.5, 0.5], prune_budget=0.1)).latency_s


def test_a_general_solver_finds_nothing_better():
    """SLSQP over (T, rho, b), from five starts."""
    problem = worked_example()
    found, best = solve(problem), np.inf
    generator = np.random.default_rng(0)
    for _ in range(5):
        shares = generator.dirichlet(np.ones(3))
        limits = [(0, None)] + [(0, 0.8)] * 3 + [(1e-3, 1)] * 3
        rules = [
            {"type": "ineq", "fun": lambda x: x[0] - problem.client_latency(x[1:4], x[4:] * 1e6)},
            {"type": "ineq", "fun": lambda x: 1.0 - x[4:].sum()},
            {"type": "ineq", "fun": lambda x: 0.3 - problem.weights @ x[1:4]},
        ]
        start = np.concatenate([[20.0], np.full(3, 0.1), shares])
        best = min(best, minimize(lambda x: x[0], start, bounds=limits, constraints=rules, method="SLSQP").fun)
    assert found.latency_s == pytest.approx(best, rel=1e-6)


def test_ten_thousand_clients_in_one_call():
    generator = np.random.default_rng(0)
    examples = generator.integers(50, 500, 10_000)
    problem = RoundProblem(
        channel_gain_hz=generator.exponential(size=10_000) * 10 ** generator.uniform(8, 11, 10_000),
        fixed_latency_s=0.05,
        compute_s=0.02 * examples,
        upload_bits=1e7,
        weights=examples / examples.sum(),
        bandwidth_hz=2e10,
        prune_budget=0.3,
        max_prune=0.8,
    )
    found = solve(problem)
    assert found.converged
    check_feasible(problem, found)
    assert found.latency_s == pytest.approx(solve_exact(problem).latency_s, rel=1e-8)


@given(moderate_problems())
@few
def test_whole_units_never_raise_a_rate(problem):
    found = solve(problem)
    whole = with_whole_units(problem, found.prune_rate, 12)
    check_feasible(problem, whole)
    np.testing.assert_allclose(12 * whole.prune_rate, np.rint(12 * whole.prune_rate), atol=1e-9)
    assert np.all(whole.prune_rate <= found.prune_rate + 1e-9)
    assert np.all(whole.prune_rate > found.prune_rate - 1 / 12)
    assert whole.latency_s >= found.latency_s * (1 - 1e-9)
