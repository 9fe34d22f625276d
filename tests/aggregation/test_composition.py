"""Compositions: rules that average some of an adapter's tensors, pieces, and every algorithm by its name."""

import pytest
import torch

from fedloom.aggregation import Update, algorithm, mean, server_optimizers
from fedloom.aggregation.composition import Composition
from fedloom.aggregation.fedbuff import StaleMean
from fedloom.aggregation.fednova import NormalizedMean
from fedloom.aggregation.geometric_median import GeometricMedianRule
from fedloom.aggregation.krum import NearestUpdates
from fedloom.aggregation.mean import WeightedMean
from fedloom.aggregation.norm_bound import BoundedMean
from fedloom.aggregation.server_optimizers import Momentum
from fedloom.aggregation.trimmed_mean import CoordinatewiseMean
from tests.aggregation.worked_numbers import SHAPES, as_tensors, random_rounds, run_random, same_bits

RULES = {
    "weighted": WeightedMean("examples"),
    "normalized": NormalizedMean("examples"),
    "bounded": BoundedMean(0.3, "examples"),
    "stale": StaleMean(0.5, "count"),
    "median": CoordinatewiseMean(lambda count: (count - 1) // 2),
    "nearest": NearestUpdates(byzantine=1, kept=2),
    "geometric": GeometricMedianRule(8, 1e-6, "examples"),
}
METRICS = {"normalizer": 3.0, "staleness": 0}
SHARED = "layer.lora_B.weight"


class OneFactor(Composition):
    """Clients send B alone."""

    def expected(self, adapter, state):
        return {SHARED: adapter[SHARED]}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_averages_the_tensors_that_are_expected_as_if_there_were_no_others(name):
    start, (one,) = random_rounds(seed=41, rounds=1, clients=(6, 6))
    adapter = as_tensors(start)
    updates = [
        Update(str(k), {SHARED: as_tensors(delta)[SHARED]}, size, METRICS) for k, (delta, size) in enumerate(one)
    ]
    whole = Update("eve", as_tensors(one[0][0]), 1, METRICS)
    factor = OneFactor(RULES[name], Momentum(1.0, 0.9))
    with pytest.warns(UserWarning, match="'eve' rejected: delta: tensor names differ"):
        after, state = factor.step(adapter, factor.init(adapter), [*updates, whole])
    alone = {SHARED: adapter[SHARED]}
    expected, _ = Composition(RULES[name]).step(alone, {}, updates)
    assert torch.equal(after[SHARED], expected[SHARED])
    assert not torch.equal(after[SHARED], adapter[SHARED])
    for other in SHAPES.keys() - {SHARED}:
        assert torch.equal(after[other], adapter[other])
        assert not state[f"momentum/{other}"].any()


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedyogi", "norm_bound"])
def test_pieces_do_not_show(name, monkeypatch):
    start, rounds = random_rounds(seed=42)
    parameters = {"bound": 0.2} if name == "norm_bound" else {}
    whole = run_random(algorithm(name, **parameters), start, rounds)
    monkeypatch.setattr(mean, "PIECE", 4)
    monkeypatch.setattr(server_optimizers, "PIECE", 3)
    assert same_bits(run_random(algorithm(name, **parameters), start, rounds), whole)


def test_long_tensors_are_added_and_moved_to_their_last_entry():
    size = mean.PIECE + 5
    updates = [Update(str(k), {"w": torch.full((size,), float(k))}, 1) for k in (1, 2)]
    adapter, _ = algorithm("fedavgm").step({"w": torch.zeros(size)}, {"momentum/w": torch.ones(size)}, updates)
    torch.testing.assert_close(adapter["w"], torch.full((size,), 2.4))
