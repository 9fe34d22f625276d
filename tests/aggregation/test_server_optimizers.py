"""FedAvgM, FedAdagrad, FedYogi and FedAdam against the specification's numbers and NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation import Update, algorithm
from fedloom.aggregation.server_optimizers import Momentum, Yogi
from tests.aggregation.worked_numbers import (
    ROUNDS,
    X,
    as_tensors,
    assert_same_path,
    assert_worked,
    mean_of,
    random_rounds,
    run_random,
    same_bits,
    worked_updates,
)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("fedavgm", {}, [[1.025, -1.6], [1.3225, -1.59]]),
        ("fedadagrad", {}, [[1.096080, -1.900250], [1.195309, -1.965976]]),
        ("fedyogi", {}, [[1.067703, -1.902469], [1.171610, -1.900622]]),
        ("fedadam", {}, [[1.067737, -1.902468], [1.171649, -1.900617]]),
        ("fedadam", {"initial_second_moment": 0.0}, [[1.071429, -1.902439], [1.175405, -1.900587]]),
    ],
)
def test_worked_numbers(name, parameters, expected):
    assert_worked(algorithm(name, **parameters), expected)


def reference(name, start, rounds, rate, beta1, beta2=0.0, tau=1e-3):
    """The equations of 1909.06335 and 2003.00295, entry by entry in fp64."""
    x = {key: value.astype(np.float64) for key, value in start.items()}
    m = {key: np.zeros_like(value) for key, value in x.items()}
    v = {key: np.full_like(value, tau**2) for key, value in x.items()}
    after = []
    for one in rounds:
        for key in x:
            d = mean_of(one, key)
            if name == "fedavgm":
                m[key] = beta1 * m[key] + d
                x[key] = x[key] + rate * m[key]
                continue
            m[key] = beta1 * m[key] + (1 - beta1) * d
            v[key] = {
                "fedadagrad": v[key] + d**2,
                "fedyogi": v[key] - (1 - beta2) * d**2 * np.sign(v[key] - d**2),
                "fedadam": beta2 * v[key] + (1 - beta2) * d**2,
            }[name]
            x[key] = x[key] + rate * m[key] / (np.sqrt(v[key]) + tau)
        after.append(dict(x))
    return after


@pytest.mark.parametrize(
    ("name", "parameters", "numbers"),
    [
        ("fedavgm", {"server_learning_rate": 0.5, "beta": 0.8}, (0.5, 0.8)),
        ("fedadagrad", {"server_learning_rate": 0.05, "beta1": 0.3}, (0.05, 0.3)),
        ("fedyogi", {"server_learning_rate": 0.05, "beta1": 0.8, "beta2": 0.9}, (0.05, 0.8, 0.9)),
        ("fedadam", {"server_learning_rate": 0.05, "beta1": 0.8, "beta2": 0.9}, (0.05, 0.8, 0.9)),
    ],
)
def test_three_random_rounds(name, parameters, numbers):
    start, rounds = random_rounds(seed=3)
    after = run_random(algorithm(name, **parameters), start, rounds)
    assert_same_path(after, reference(name, start, rounds, *numbers))
    assert not same_bits(after, run_random(algorithm("fedavg"), start, rounds))


def test_fedavgm_without_momentum_is_fedavg():
    start, rounds = random_rounds(seed=4)
    plain = run_random(algorithm("fedavg"), start, rounds)
    assert same_bits(run_random(algorithm("fedavgm", beta=0.0), start, rounds), plain)


@pytest.mark.parametrize("name", ["fedadagrad", "fedyogi", "fedadam"])
def test_adaptive_optimisers_become_fedavg_in_the_limit(name):
    start, rounds = random_rounds(seed=5)
    huge = {"server_learning_rate": 1e8, "tau": 1e8, "beta1": 0.0, "initial_second_moment": 0.0}
    plain = run_random(algorithm("fedavg"), start, rounds)
    assert_same_path(run_random(algorithm(name, **huge), start, rounds), [as_arrays(one) for one in plain], rtol=3e-7)


def as_arrays(adapter):
    return {name: value.numpy() for name, value in adapter.items()}


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1))
def test_yogi_moves_its_second_moment_towards_the_square_by_a_fixed_share(second, share, delta):
    v = torch.tensor([second], dtype=torch.float64)
    square = torch.tensor([delta], dtype=torch.float64).square()
    Yogi(1.0, 0.0, share, 1.0, None).accumulate(v, square)
    direction = np.sign(square.item() - second)
    assert v.item() == pytest.approx(second + (1 - share) * direction * delta**2, abs=1e-12)


def test_what_a_round_does_not_name_keeps_value_and_state():
    """Factors that take turns: momentum of the one that rests is neither used nor decayed."""
    optimizer = Momentum(1.0, 0.5)
    adapter = {"a": torch.zeros(2), "b": torch.zeros(3)}
    state = optimizer.init(adapter)
    one = torch.ones(2, dtype=torch.float64)
    adapter, state = optimizer.update(adapter, {"a": one.clone()}, state)
    adapter, state = optimizer.update(adapter, {"b": torch.ones(3, dtype=torch.float64)}, state)
    assert torch.equal(adapter["a"], torch.ones(2))
    adapter, state = optimizer.update(adapter, {"a": one.clone()}, state)
    assert torch.equal(adapter["a"], torch.full((2,), 2.5))
    assert torch.equal(adapter["b"], torch.ones(3))


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedyogi", "fedadam"])
def test_state_is_named_like_the_adapter_and_given_states_are_left_alone(name):
    optimizer = algorithm(name)
    state = optimizer.init(X)
    assert all(key.endswith("/w") and value.shape == X["w"].shape for key, value in state.items())
    before = {key: value.clone() for key, value in state.items()}
    _, after = optimizer.step(X, state, worked_updates(ROUNDS[0]))
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)
    assert all(not torch.equal(state[key], after[key]) for key in state)
    unchanged, still = optimizer.step(X, state, [])
    assert torch.equal(unchanged["w"], X["w"])
    assert still is state


def test_half_precision_adapters_are_rounded_once():
    start, rounds = random_rounds(seed=6, rounds=1)
    half = {name: value.bfloat16() for name, value in as_tensors(start).items()}
    arrays = {name: value.float().numpy() for name, value in half.items()}
    updates = [Update(str(k), as_tensors(delta), size) for k, (delta, size) in enumerate(rounds[0])]
    algorithm_ = algorithm("fedavgm", server_learning_rate=0.7)
    after, _ = algorithm_.step(half, algorithm_.init(half), updates)
    for name, value in arrays.items():
        expected = torch.from_numpy(value.astype(np.float64) + 0.7 * mean_of(rounds[0], name)).bfloat16()
        assert torch.equal(after[name], expected)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("fedavgm", {"beta": 1.0}, "beta.*less than 1"),
        ("fedavgm", {"server_learning_rate": 0.0}, "server_learning_rate.*greater than 0"),
        ("fedadam", {"tau": 0.0}, "tau.*greater than 0"),
        ("fedadagrad", {"beta2": 0.9}, "beta2"),
    ],
)
def test_parameters_out_of_bounds_are_named(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        algorithm(name, **parameters)
