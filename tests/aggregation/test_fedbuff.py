"""FedBuff's server: the specification's numbers, references in NumPy, neutral settings."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import Update, algorithm
from tests.aggregation.worked_numbers import X, assert_same_path, assert_worked, random_rounds, run_random, same_bits

FRESH = {"staleness": 0}


def test_worked_numbers():
    metrics = ((FRESH, FRESH), ({"staleness": 1}, FRESH))
    assert_worked(algorithm("fedbuff", buffer_size=2), [[1.15, -1.8], [1.370711, -2.014645]], metrics)


@pytest.mark.parametrize("weighting", ["count", "examples", "tokens", "uniform"])
def test_three_random_steps(weighting):
    start, rounds = random_rounds(seed=31)
    rule = algorithm("fedbuff", staleness_exponent=0.8, server_learning_rate=1.5, weighting=weighting)
    after = run_random(rule, start, rounds, lambda k: {"staleness": 2 * k, "label_tokens": 5 + k})
    x, expected = {name: value.astype(np.float64) for name, value in start.items()}, []
    for one in rounds:
        age = 2.0 * np.arange(len(one))
        s = (1 + age) ** -0.8
        if weighting == "count":
            factors = s / len(one)
        else:
            w = {
                "examples": np.array([size for _, size in one], dtype=np.float64),
                "tokens": 5.0 + np.arange(len(one)),
                "uniform": np.ones(len(one)),
            }[weighting]
            factors = w * s / (w * s).sum()
        for name in x:
            x[name] = x[name] + 1.5 * sum(factors[k] * one[k][0][name].astype(np.float64) for k in range(len(one)))
        expected.append(dict(x))
    assert_same_path(after, expected)


@pytest.mark.parametrize("weighting", ["count", "uniform", "examples"])
def test_fresh_updates_are_averaged_as_by_fedavg(weighting):
    start, rounds = random_rounds(seed=32)
    like = "uniform" if weighting == "count" else weighting
    plain = run_random(algorithm("fedavg", weighting=like), start, rounds)
    rule = algorithm("fedbuff", weighting=weighting)
    assert same_bits(run_random(rule, start, rounds, lambda k: FRESH), plain)
    assert not same_bits(run_random(rule, start, rounds, lambda k: {"staleness": k}), plain)
    ageless = algorithm("fedbuff", weighting=weighting, staleness_exponent=0.0)
    assert same_bits(run_random(ageless, start, rounds, lambda k: {"staleness": k}), plain)


@pytest.mark.parametrize("weighting", ["count", "examples"])
@pytest.mark.parametrize("staleness", [None, -1, float("nan"), "2"])
def test_updates_of_unknown_age_are_refused(staleness, weighting):
    good = Update("adam", {"w": torch.tensor([0.5, 1.0])}, 1, FRESH)
    bad = Update("eve", {"w": torch.ones(2)}, 1, {"staleness": staleness})
    with pytest.warns(UserWarning, match="'eve' rejected: staleness is"):
        adapter, _ = algorithm("fedbuff", weighting=weighting).step(X, {}, [good, bad])
    assert torch.equal(adapter["w"], X["w"] + good.delta["w"])
