"""Compositions: rules that average some of an adapter's tensors, and pieces that do not show."""

import copy

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


class TwoPlaces:
    """A round's updates in two places: each folds its own, then the sums are added up, as between processes."""

    def __init__(self, updates):
        self.updates = updates

    def __iter__(self):
        raise AssertionError("an algorithm that needs sums alone asks for no update")

    def reject(self, client, reason):
        raise AssertionError(reason)

    def fold(self, into):
        elsewhere = copy.deepcopy(into)
        for k, update in enumerate(self.updates):
            (into, elsewhere)[k % 2].add(update)
        assert into.sums.keys() == elsewhere.sums.keys()
        for name, total in into.sums.items():
            total.copy_(total + elsewhere.sums[name])


FOLDING = {
    "fedavg": {},
    "fedprox": {},
    "fedavgm": {},
    "fedadagrad": {},
    "fedyogi": {},
    "fedadam": {},
    "scaffold": {"clients": 9, "total_examples": 400, "weighting": "examples"},
    "fednova": {},
    "feddyn": {"clients": 9},
    "ditto": {},
    "pfedme": {},
    "fedbuff": {},
    "norm_bound": {"bound": 0.4},
}


@pytest.mark.parametrize("name", FOLDING)
def test_sums_of_two_places_are_those_of_one(name):
    start, (one,) = random_rounds(seed=43, rounds=1, clients=(6, 6))
    rule, adapter = algorithm(name, **FOLDING[name]), as_tensors(start)
    updates = []
    for k, (delta, size) in enumerate(one):
        extra = {f"control/{key}": -value for key, value in as_tensors(delta).items()} if name == "scaffold" else {}
        metrics = {"normalizer": 1.5 + k, "staleness": k}
        updates.append(Update(str(k), as_tensors(delta), size, metrics, extra))
    state = rule.init(adapter)
    together, after = rule.step(adapter, state, updates)
    apart, after_apart = rule.step(adapter, state, TwoPlaces(updates))
    for found, expected in [(apart, together), (after_apart, after)]:
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-9)
