"""FedProx, FedNova and FedDyn: the specification's numbers, references in NumPy, neutral settings."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import ClientRule, Update, algorithm
from fedloom.aggregation.feddyn import DynamicRegularizer
from fedloom.aggregation.fednova import StepCounter
from fedloom.aggregation.fedprox import ProximalTerm
from tests.aggregation.client_rounds import Client, train_round
from tests.aggregation.worked_numbers import (
    X,
    assert_same_path,
    assert_worked,
    mean_of,
    random_rounds,
    run_random,
    same_bits,
)


def towards(target, curvature=1.0):
    """The gradient of curvature/2 ||w - target||^2."""
    target = torch.as_tensor(target, dtype=torch.float32)
    return lambda w: curvature * (w - target)


def test_fedprox_worked_number():
    values, _ = Client(towards([1.0])).train(ProximalTerm(0.5), torch.zeros(1), 0.1)
    torch.testing.assert_close(values, torch.tensor([0.185]))


def test_fedprox_pulls_towards_what_was_sent_and_before_clipping():
    start, sent = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    client = Client(towards([3.0, 0.0]), steps=1)
    values, _ = client.train(ProximalTerm(2.0), start, 0.1, broadcast=sent, clip=1.0)
    gradient = np.array([-3.0, 2.0]) + 2.0 * np.array([-1.0, 1.0])
    expected = np.array([0.0, 2.0]) - 0.1 * gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("adamw", [False, True])
def test_fedprox_without_a_pull_is_plain_training(adamw):
    torch.manual_seed(0)
    start, target = torch.randn(9), torch.randn(9)
    runs = {}
    for name, rule in [("plain", ClientRule()), ("none", ProximalTerm(0.0)), ("some", ProximalTerm(0.3))]:
        runs[name], _ = Client(towards(target), steps=5).train(rule, start, 0.1, adamw=adamw)
    assert torch.equal(runs["none"], runs["plain"])
    assert not torch.equal(runs["some"], runs["plain"])
    assert (runs["some"] - start).norm() < (runs["plain"] - start).norm()


def test_fedprox_server_is_fedavg():
    start, rounds = random_rounds(seed=1)
    assert same_bits(run_random(algorithm("fedprox"), start, rounds), run_random(algorithm("fedavg"), start, rounds))


def test_fednova_worked_numbers():
    normalizers = ({"normalizer": 2.0}, {"normalizer": 6.0})
    assert_worked(algorithm("fednova"), [[1.1875, -1.75], [1.5, -2.0]], (normalizers, normalizers))


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_fednova_three_random_rounds(weighting):
    start, rounds = random_rounds(seed=2)
    after = run_random(algorithm("fednova", weighting=weighting), start, rounds, lambda k: {"normalizer": 2.5 * k + 1})
    x, expected = {name: value.astype(np.float64) for name, value in start.items()}, []
    for one in rounds:
        weights = np.array([size if weighting == "examples" else 1 for _, size in one], dtype=np.float64)
        p, a = weights / weights.sum(), 2.5 * np.arange(len(one)) + 1
        for name in x:
            x[name] = x[name] + (p @ a) * sum(p[k] * one[k][0][name] / a[k] for k in range(len(one)))
        expected.append(dict(x))
    assert_same_path(after, expected)


def test_fednova_with_equal_steps_is_fedavg():
    start, rounds = random_rounds(seed=3)
    plain = run_random(algorithm("fedavg"), start, rounds)
    # A power of two, so that dividing and multiplying by it is exact.
    assert same_bits(run_random(algorithm("fednova"), start, rounds, lambda k: {"normalizer": 8.0}), plain)
    unequal = run_random(algorithm("fednova"), start, rounds, lambda k: {"normalizer": 8.0 + k})
    assert not same_bits(unequal, plain)


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.0), (7, 0.0), (1, 0.9), (7, 0.9), (12, 0.5)])
def test_fednova_clients_report_how_far_gradients_of_one_move_them(steps, momentum):
    rate = 0.25
    client = Client(torch.ones_like, steps=steps)
    values, finish = client.train(StepCounter(), torch.zeros(1), rate, momentum=momentum)
    distance = finish.metrics["normalizer"]
    geometric = momentum * (1 - momentum**steps) / (1 - momentum)
    assert distance == pytest.approx((steps - geometric) / (1 - momentum))
    assert -float(values) / rate == pytest.approx(distance, rel=1e-5), "what SGD itself does"


@pytest.mark.parametrize("normalizer", [None, 0.0, float("nan"), float("inf"), "3"])
def test_fednova_refuses_updates_without_steps(normalizer):
    updates = [
        Update("good", {"w": torch.ones(2)}, 1, {"normalizer": 3}),
        Update("eve", {"w": torch.ones(2)}, 1, {"normalizer": normalizer}),
    ]
    with pytest.warns(UserWarning, match="'eve' rejected: normalizer is"):
        adapter, _ = algorithm("fednova").step(X, {}, updates)
    assert torch.equal(adapter["w"], X["w"] + 1)


def test_fednova_finds_the_minimum_that_fedavg_misses():
    """Two quadratics, of which one client makes nine times as many steps as the other."""
    reached = {}
    for name in ("fedavg", "fednova"):
        rule = algorithm(name)
        clients = {"a": Client(towards([1.0]), steps=1), "b": Client(towards([-1.0]), steps=9)}
        adapter, state = {"w": torch.zeros(1)}, {}
        for _ in range(300):
            adapter, state = train_round(rule, adapter, state, clients, 0.01)
        reached[name] = abs(float(adapter["w"]))
    assert reached["fedavg"] > 0.5
    assert reached["fednova"] < 0.05


def test_feddyn_worked_numbers():
    assert_worked(algorithm("feddyn", clients=2, alpha=0.5), [[1.3, -1.6], [1.95, -1.8]])
    client = Client(towards([1.0]), kept={"slope": torch.tensor([0.2])})
    values, finish = client.train(DynamicRegularizer(0.5), torch.zeros(1), 0.1)
    torch.testing.assert_close(values, torch.tensor([0.222]))
    torch.testing.assert_close(finish.kept["slope"], torch.tensor([0.089]))


def test_feddyn_three_random_rounds():
    start, rounds = random_rounds(seed=5)
    after = run_random(algorithm("feddyn", clients=6, alpha=0.1), start, rounds)
    x, expected = {name: value.astype(np.float64) for name, value in start.items()}, []
    h = {name: np.zeros_like(value) for name, value in x.items()}
    for one in rounds:
        for name in x:
            h[name] = h[name] - 0.1 / 6 * sum(delta[name].astype(np.float64) for delta, _ in one)
            x[name] = x[name] + mean_of(one, name, np.ones(len(one))) - h[name] / 0.1
        expected.append(dict(x))
    assert_same_path(after, expected, rtol=1e-4)


def test_feddyn_finds_the_minimum_of_the_sum():
    """Nearly exact local solves of unlike quadratics: the minimum is curvature-weighted, which FedAvg misses."""
    problems = {"a": ([4.0, 0.0], 0.5), "b": ([-1.0, 2.0], 2.0), "c": ([0.0, -3.0], 1.0)}
    weight = sum(curvature for _, curvature in problems.values())
    best = sum(curvature * torch.tensor(target) for target, curvature in problems.values()) / weight
    distance = {}
    for name, parameters in [("fedavg", {"weighting": "uniform"}), ("feddyn", {"clients": 3, "alpha": 1.0})]:
        rule = algorithm(name, **parameters)
        clients = {key: Client(towards(*problem), steps=200) for key, problem in problems.items()}
        adapter = {"w": torch.zeros(2)}
        state = rule.init(adapter)
        for _ in range(40):
            adapter, state = train_round(rule, adapter, state, clients, 0.1)
        distance[name] = float((adapter["w"] - best).norm())
    assert distance["fedavg"] > 0.3
    assert distance["feddyn"] < 1e-4


def test_feddyn_keeps_its_state_when_nobody_answers():
    rule = algorithm("feddyn", clients=3)
    state = {"slope/w": torch.tensor([1.0, 2.0])}
    adapter, after = rule.step(X, state, [])
    assert torch.equal(adapter["w"], X["w"])
    assert torch.equal(after["slope/w"], state["slope/w"])
