"""SCAFFOLD: the specification's quadratics, partial participation, AdamW, and what it refuses."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import ClientRule, Update, algorithm
from fedloom.aggregation.scaffold_controls import MeanGradientControl
from tests.aggregation.client_rounds import Client, train_round
from tests.aggregation.worked_numbers import X, as_tensors, random_rounds

CONTROLS = ["gradient_mean", "full_gradient", "update"]


def scaffold(clients=2, total_examples=2, **parameters):
    return algorithm("scaffold", clients=clients, total_examples=total_examples, **parameters)


def quadratics():
    return {"1": Client(lambda w: w - 1, steps=1), "2": Client(lambda w: 2 * (w + 2), steps=2)}


@pytest.mark.parametrize(
    ("control", "adamw", "expected"),
    [
        ("gradient_mean", False, [((-1, 3.6), 1.3, -0.31), ((-1.31, 3.272), 0.981, -0.4567)]),
        # For SGD, corrections before and after the step are the same.
        ("update", False, [((-1, 3.6), 1.3, -0.31), ((-1.31, 3.272), 0.981, -0.4567)]),
        ("full_gradient", False, [((-1, 4), 1.5, -0.31), ((-1.31, 3.38), 1.035, -0.4487)]),
        ("gradient_mean", True, [((-1, 3.9), 1.45, -0.049917), ((-1.049917, 3.800166), 1.375125, -0.199588)]),
    ],
)
def test_worked_numbers(control, adamw, expected):
    rule, clients, adapter = scaffold(control=control), quadratics(), {"w": torch.zeros(1)}
    state = rule.init(adapter)
    for own, shared, reached in expected:
        adapter, state = train_round(rule, adapter, state, clients, 0.1, adamw=adamw)
        kept = [float(client.kept["control"]) for client in clients.values()]
        np.testing.assert_allclose(kept, own, atol=2e-6)
        np.testing.assert_allclose(float(state["control/w"]), shared, atol=2e-6)
        np.testing.assert_allclose(float(adapter["w"]), reached, atol=2e-6)


def problems(seed=0, size=8, clients=4):
    """Strongly different quadratics and the minimum of their sum."""
    draw = torch.Generator().manual_seed(seed)
    curvature = 0.5 + 2 * torch.rand(clients, size, generator=draw)
    target = 2 * torch.randn(clients, size, generator=draw)
    return curvature, target, (curvature * target).sum(0) / curvature.sum(0)


STEPS = (2, 6, 10, 14)


def distance(parameters, scale=1.0, rounds=120):
    """How far from the minimum AdamW clients with 2 to 14 steps a round end, the rate falling to a hundredth and on."""
    curvature, target, best = problems()
    clients = {
        str(k): Client(lambda w, k=k: scale * curvature[k] * (w - target[k]), steps=steps)
        for k, steps in enumerate(STEPS)
    }
    rule = algorithm("fedavg", weighting="uniform") if parameters is None else scaffold(clients=4, **parameters)
    adapter = {"w": torch.zeros(curvature.shape[1])}
    state = rule.init(adapter)
    for turn in range(rounds):
        adapter, state = train_round(rule, adapter, state, clients, 0.1 * 0.93**turn, adamw=True)
    return float((adapter["w"] - best).norm())


def test_adamw_clients_with_unequal_steps_reach_the_minimum():
    """The specification's comparison, on quadratics of our own."""
    plain = distance(None)
    assert plain > 0.3
    assert distance({"control": "gradient_mean"}) < 1e-3
    assert distance({"control": "full_gradient"}) < 1e-3
    assert distance({"control": "update"}) > 0.1, "directions that cancel are not gradients that cancel"
    assert distance({"control": "gradient_mean"}, scale=1e-3) < 1e-2, "no matter how small gradients are"


def test_the_server_control_is_the_weighted_mean_of_all_clients_whoever_took_part():
    """Invariant c = sum_N P_k c_k under partial participation, unequal steps, changing rates and SGD."""
    curvature, target, _ = problems(seed=1)
    sizes = [1, 4, 2, 9]
    for weighting in ("uniform", "examples"):
        weights = np.array(sizes if weighting == "examples" else [1] * 4) / (16 if weighting == "examples" else 4)
        clients = {
            str(k): Client(lambda w, k=k: curvature[k] * (w - target[k]), steps=STEPS[k], examples=sizes[k])
            for k in range(4)
        }
        rule = scaffold(clients=4, total_examples=16, weighting=weighting)
        adapter = {"w": torch.zeros(8)}
        state = rule.init(adapter)
        for turn, present in enumerate(["01", "12", "3", "023", "1"]):
            adapter, state = train_round(rule, adapter, state, clients, 0.05 / (1 + turn), present=present)
            kept = [client.kept.get("control", torch.zeros(8)).double().numpy() for client in clients.values()]
            np.testing.assert_allclose(state["control/w"].numpy(), weights @ np.stack(kept), atol=1e-5)


def test_gradient_mean_is_option_two_for_sgd_under_any_schedule():
    rates = [0.1, 0.03, 0.2, 0.07]
    own, shared, start = torch.tensor([0.4, -1.0]), torch.tensor([-0.2, 0.3]), torch.tensor([1.0, 2.0])
    client = Client(lambda w: 3 * w - 1, steps=4, kept={"control": own})
    values, finish = client.train(MeanGradientControl(), start, rates, received={"control": shared})
    expected = own - shared + (start - values) / sum(rates)
    torch.testing.assert_close(finish.kept["control"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(finish.extra["control"], expected - own, rtol=1e-5, atol=1e-6)


def test_rates_of_zero_count_alike_as_long_as_there_are_no_others():
    gradients = iter([torch.tensor([1.0]), torch.tensor([3.0])] * 2 + [torch.tensor([9.0])])
    client = Client(lambda w: next(gradients), steps=2)
    received = {"control": torch.zeros(1)}
    _, finish = client.train(MeanGradientControl(), torch.zeros(1), [0.0, 0.0], received=received)
    assert finish.kept["control"].item() == 2.0
    _, finish = client.train(MeanGradientControl(), torch.zeros(1), [0.0, 0.0, 0.5], received=received)
    assert finish.kept["control"].item() == 9.0


def test_the_first_round_is_fedavg():
    for adamw in (False, True):
        after = []
        for rule in (algorithm("fedavg", weighting="uniform"), scaffold()):
            adapter = {"w": torch.zeros(1)}
            after.append(train_round(rule, adapter, rule.init(adapter), quadratics(), 0.1, adamw=adamw)[0]["w"])
        assert torch.equal(*after)


def test_the_gradient_that_counts_is_the_clipped_one_before_its_correction():
    received = {"control": torch.tensor([5.0, 0.0])}
    client = Client(lambda w: torch.tensor([30.0, 40.0]), steps=1)
    values, finish = client.train(MeanGradientControl(), torch.zeros(2), 0.1, received=received, clip=1.0)
    torch.testing.assert_close(finish.kept["control"], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(values, torch.tensor([-0.56, -0.08]))


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_three_random_rounds_of_the_server(weighting):
    start, rounds = random_rounds(seed=7)
    _, changes = random_rounds(seed=8)
    rule = scaffold(clients=10, total_examples=400, server_learning_rate=0.7, weighting=weighting)
    adapter = as_tensors(start)
    state = rule.init(adapter)
    x = {name: value.astype(np.float64) for name, value in start.items()}
    c = {name: np.zeros_like(value) for name, value in x.items()}
    for one, others in zip(rounds, changes, strict=True):
        one, others = one[: len(others)], others[: len(one)]
        updates = []
        for k, ((delta, size), (change, _)) in enumerate(zip(one, others, strict=True)):
            extra = {f"control/{name}": value for name, value in as_tensors(change).items()}
            updates.append(Update(str(k), as_tensors(delta), size, {}, extra))
        adapter, state = rule.step(adapter, state, updates)
        sizes = np.array([size for _, size in one], dtype=np.float64)
        p = sizes / sizes.sum() if weighting == "examples" else np.full(len(one), 1 / len(one))
        share = sizes / 400 if weighting == "examples" else np.full(len(one), 0.1)
        for name in x:
            x[name] = x[name] + 0.7 * sum(p[k] * one[k][0][name].astype(np.float64) for k in range(len(one)))
            c[name] = c[name] + sum(share[k] * others[k][0][name].astype(np.float64) for k in range(len(one)))
            np.testing.assert_allclose(adapter[name].numpy(), x[name], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(state[f"control/{name}"].numpy(), c[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("delta", "extra", "message"),
    [
        ({"w": torch.full((2,), float("nan"))}, {"control/w": torch.ones(2)}, "delta.*not finite"),
        ({"w": torch.ones(2)}, {"control/w": torch.full((2,), float("inf"))}, "extra.*not finite"),
        ({"w": torch.ones(2)}, {}, "extra.*names differ"),
        ({"w": torch.ones(2)}, {"control/w": torch.ones(3)}, "extra.*shape"),
    ],
)
def test_nothing_of_a_bad_update_is_added(delta, extra, message):
    good = Update("adam", {"w": torch.tensor([0.5, 1.0])}, 1, {}, {"control/w": torch.tensor([2.0, 4.0])})
    rule = scaffold()
    with pytest.warns(UserWarning, match=f"'eve' rejected: {message}"):
        adapter, state = rule.step(X, rule.init(X), [good, Update("eve", delta, 1, {}, extra)])
    assert torch.equal(adapter["w"], X["w"] + good.delta["w"])
    assert torch.equal(state["control/w"], good.extra["control/w"] / 2)


def test_only_the_full_gradient_asks_for_one_and_tokens_are_no_weighting():
    assert [scaffold(control=control).client.full_gradient for control in CONTROLS] == [False, True, False]
    assert not ClientRule.full_gradient
    with pytest.raises(ValueError, match="weighting"):
        scaffold(weighting="tokens")
