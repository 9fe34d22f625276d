"""Ditto and pFedMe: the specification's numbers, who keeps what, neutral settings, references in NumPy."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import algorithm
from fedloom.aggregation.pfedme import MoreauEnvelope
from fedloom.errors import UserError
from tests.aggregation.client_rounds import Client, train_round
from tests.aggregation.worked_numbers import assert_same_path, mean_of, random_rounds, run_random, same_bits


def one(w):
    """The gradient of (w - 1)^2 / 2."""
    return w - 1


def test_ditto_worked_number():
    ditto = algorithm("ditto", lam=0.5)
    values, _ = Client(one).train(ditto.personal, torch.tensor([0.5]), 0.1, broadcast=torch.zeros(1))
    torch.testing.assert_close(values, torch.tensor([0.54625]))


def test_ditto_shares_like_fedavg_and_keeps_its_own_adapter_near():
    start, rounds = random_rounds(seed=21)
    assert same_bits(run_random(algorithm("ditto"), start, rounds), run_random(algorithm("fedavg"), start, rounds))
    own, broadcast = torch.tensor([0.5, -2.0]), torch.tensor([0.0, 1.0])
    reached = {}
    for lam in (0.0, 0.1, 5.0):
        personal = algorithm("ditto", lam=lam).personal
        reached[lam], _ = Client(one, steps=30).train(personal, own, 0.1, broadcast=broadcast)
    alone, _ = Client(one, steps=30).train(algorithm("fedavg").client, own, 0.1)
    assert torch.equal(reached[0.0], alone), "without a pull it is local training"
    away = [float((reached[lam] - broadcast).norm()) for lam in (0.0, 0.1, 5.0)]
    assert away[0] > away[1] > away[2]


def test_pfedme_worked_number():
    rule = algorithm("pfedme", lam=2.0, outer_learning_rate=0.1, personal_steps=1).client
    values, finish = Client(one, steps=2).train(rule, torch.zeros(1), 0.1)
    torch.testing.assert_close(values, torch.tensor([0.0508]))
    torch.testing.assert_close(finish.kept["personal"], torch.tensor([0.174]))


@pytest.mark.parametrize("steps", [6, 8])
def test_pfedme_moves_the_anchor_after_every_few_steps_and_once_for_the_rest(steps):
    curvature = np.array([1.0, 0.3, 2.0])
    theta = start = np.array([0.5, -1.0, 2.0])
    w = start
    for step in range(1, steps + 1):
        theta = theta - 0.05 * (curvature * (theta - 1) + 4.0 * (theta - w))
        if step % 3 == 0 or step == steps:
            w = w - 0.1 * 4.0 * (w - theta)
    own = torch.tensor(curvature, dtype=torch.float32)
    client = Client(lambda v: own * (v - 1), steps=steps)
    values, finish = client.train(MoreauEnvelope(4.0, 0.1, 3), torch.tensor(start, dtype=torch.float32), 0.05)
    np.testing.assert_allclose(values.numpy(), w, rtol=1e-5)
    np.testing.assert_allclose(finish.kept["personal"].numpy(), theta, rtol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 0.4, 2.0])
def test_pfedme_server_mixes_old_and_new(beta):
    start, rounds = random_rounds(seed=22)
    after = run_random(algorithm("pfedme", server_learning_rate=beta), start, rounds)
    x, expected = {name: value.astype(np.float64) for name, value in start.items()}, []
    for updates in rounds:
        for name in x:
            sent = x[name] + mean_of(updates, name, np.ones(len(updates)))
            x[name] = (1 - beta) * x[name] + beta * sent
        expected.append(dict(x))
    assert_same_path(after, expected)


def test_pfedme_serves_each_client_better_than_what_is_shared():
    targets = {"a": torch.tensor([2.0, 0.0]), "b": torch.tensor([-2.0, 1.0])}
    clients = {name: Client(lambda w, t=target: w - t, steps=20) for name, target in targets.items()}
    rule = algorithm("pfedme", lam=1.0, outer_learning_rate=0.05, personal_steps=20)
    # Where the minima of all envelopes together are.
    adapter, state = {"w": torch.tensor([0.0, 0.5])}, {}
    for _ in range(5):
        adapter, state = train_round(rule, adapter, state, clients, 0.1)
    torch.testing.assert_close(adapter["w"], torch.tensor([0.0, 0.5]), rtol=0, atol=1e-3)
    for name, target in targets.items():
        # The minimum of f_k(theta) + 1/2 ||theta - x||^2 lies half way.
        torch.testing.assert_close(clients[name].kept["personal"], (target + adapter["w"]) / 2, rtol=0, atol=0.02)


def test_pfedme_refuses_steps_beyond_the_personal_adapter():
    with pytest.raises(UserError, match=r"outer_learning_rate: 0.1 times lam \(15\) must be <= 1"):
        algorithm("pfedme", outer_learning_rate=0.1)
