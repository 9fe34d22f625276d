"""The numbers of the worked example, solved twice independently, to their printed digits (docs/wireless.md)."""

import numpy as np
import pytest

from fedloom.wireless import RoundProblem, alternate, baseline, solve, solve_exact
from tests.wireless.problems import worked_example

STARTS = {
    "equal": {},
    "skewed": {"bandwidth_hz": np.array([0.2e6, 0.2e6, 0.6e6])},
    "rates": {"prune_rate": np.full(3, 0.3)},
}


def test_compute():
    np.testing.assert_allclose(worked_example().compute_s, [12.742898483, 9.557173862, 7.964311552], atol=5e-10)


@pytest.mark.parametrize("solver", [*STARTS, "exact"])
def test_the_optimum_from_any_start(solver):
    problem = worked_example()
    found = solve_exact(problem) if solver == "exact" else solve(problem, **STARTS[solver])
    assert found.converged
    assert found.latency_s == pytest.approx(8.8317328202, abs=5e-10)
    np.testing.assert_allclose(found.prune_rate, [0.573729, 0.361268, 0.153748], atol=5e-7)
    np.testing.assert_allclose(found.bandwidth_hz, [198832.156, 330461.798, 470706.047], atol=5e-4)


@pytest.mark.parametrize(
    ("name", "latency"),
    [
        ("no_pruning_equal_bandwidth", 17.370207),
        ("no_pruning_optimal_bandwidth", 15.629195),
        ("uniform_pruning_equal_bandwidth", 12.483694),
        ("uniform_pruning_optimal_bandwidth", 11.264985),
        ("optimal_pruning_equal_bandwidth", 8.936421),
        ("alternation", 8.936421),
    ],
)
def test_the_baselines(name, latency):
    assert baseline(name, worked_example()).latency_s == pytest.approx(latency, abs=5e-7)


@pytest.mark.parametrize(("start", "latency"), [("equal", 8.936421), ("skewed", 8.929146), ("rates", 11.264985)])
def test_where_plain_alternation_stalls(start, latency):
    found = alternate(worked_example(), **STARTS[start])
    assert found.latency_s == pytest.approx(latency, abs=5e-7)
    assert len(found.history) == 1


def test_two_equal_clients():
    problem = RoundProblem(
        channel_gain_hz=[7.178340951e8, 7.178340951e8],
        fixed_latency_s=1.0,
        compute_s=5.0,
        upload_bits=1e7,
        weights=0.5,
        bandwidth_hz=1e6,
        prune_budget=0.25,
        max_prune=0.8,
    )
    found = solve(problem)
    assert found.latency_s == pytest.approx(6.180136, abs=5e-7)
    np.testing.assert_allclose(found.prune_rate, 0.25, atol=1e-9)
    np.testing.assert_allclose(found.bandwidth_hz, 5e5, rtol=1e-9)
