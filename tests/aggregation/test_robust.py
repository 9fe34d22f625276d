"""Robust rules: the specification's numbers, references in NumPy, hostile clients, what they keep on disk and not."""

import os
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation import Update, algorithm
from fedloom.aggregation import collected as collected_module
from fedloom.aggregation.collected import collected
from fedloom.aggregation.krum import krum_scores
from tests.aggregation.worked_numbers import (
    SHAPES,
    X,
    as_tensors,
    assert_same_path,
    assert_worked,
    mean_of,
    random_rounds,
    run_random,
    same_bits,
)

POINTS = [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (2.0, 1.0), (10.0, -10.0)]
ALL = {
    "median": {},
    "trimmed_mean": {},
    "krum": {"byzantine_clients": 1},
    "multi_krum": {"byzantine_clients": 1, "kept_clients": 3},
    "geometric_median": {},
    "norm_bound": {"bound": 0.1},
}


def step(rule, deltas, sizes=None):
    """One round from zero on single vectors."""
    sizes = sizes or [1] * len(deltas)
    updates = [Update(str(k), {"w": torch.tensor(delta)}, sizes[k]) for k, delta in enumerate(deltas)]
    adapter, _ = rule.step({"w": torch.zeros(len(deltas[0]))}, {}, updates)
    return adapter["w"]


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("median", {}, (1, 0)),
        ("trimmed_mean", {"trimmed_share": 0.2}, (1, 0.333333)),
        ("krum", {"byzantine_clients": 1}, (1, 0)),
        ("multi_krum", {"byzantine_clients": 1, "kept_clients": 3}, (1, 0.333333)),
        ("geometric_median", {"weighting": "uniform"}, (0.996819, 0.041761)),
    ],
)
def test_worked_numbers(name, parameters, expected):
    np.testing.assert_allclose(step(algorithm(name, **parameters), POINTS).numpy(), expected, atol=1e-6)


def test_worked_numbers_of_the_bound_and_of_krum_scores():
    assert_worked(algorithm("norm_bound", bound=0.5), [[1.038350, -1.680102], [1.281286, -1.976662]])
    points = np.array(POINTS)
    distances = ((points[:, None] - points) ** 2).sum(-1)
    assert krum_scores(torch.from_numpy(distances), 1).tolist() == [5, 3, 9, 7, 366]


def reference(name, one):
    """A round's aggregate by the equations, on one vector of all entries in fp64."""
    rows = np.stack([np.concatenate([delta[key].ravel() for key in SHAPES]) for delta, _ in one]).astype(np.float64)
    n = len(rows)
    weights = np.array([size for _, size in one], dtype=np.float64)
    if name == "median":
        return np.median(rows, axis=0)
    if name == "trimmed_mean":
        cut = int(np.floor(0.2 * n + 1e-9))
        return np.sort(rows, axis=0)[cut : n - cut].mean(axis=0)
    if name in ("krum", "multi_krum"):
        scores = []
        for k in range(n):
            distances = sorted(np.sum((rows[k] - rows[j]) ** 2) for j in range(n) if j != k)
            scores.append(sum(distances[: n - 1 - 2]))
        best = np.argsort(scores, kind="stable")[: 1 if name == "krum" else 3]
        return rows[best].mean(axis=0)
    if name == "geometric_median":
        z = weights @ rows / weights.sum()
        for _ in range(8):
            b = weights / weights.sum() / np.maximum(1e-6, np.linalg.norm(rows - z, axis=1))
            z = b @ rows / b.sum()
        return z
    factors = np.minimum(1, 0.1 / np.linalg.norm(rows, axis=1))
    return (weights * factors) @ rows / weights.sum()


@pytest.mark.parametrize("name", ALL)
def test_three_random_rounds(name, monkeypatch):
    # Blocks of a few columns that end within tensors.
    monkeypatch.setattr(collected_module, "BLOCK", 50)
    start, rounds = random_rounds(seed=11, clients=(5, 9))
    after = run_random(algorithm(name, **ALL[name]), start, rounds)
    x, expected = np.concatenate([start[key].ravel() for key in SHAPES]).astype(np.float64), []
    for one in rounds:
        x = x + reference(name, one)
        parts = np.split(x, np.cumsum([np.prod(shape) for shape in SHAPES.values()])[:-1])
        expected.append({key: part.reshape(SHAPES[key]) for key, part in zip(SHAPES, parts, strict=True)})
    assert_same_path(after, expected)
    assert not same_bits(after, run_random(algorithm("fedavg"), start, rounds))


@pytest.mark.parametrize(
    ("name", "neutral", "weighting"),
    [
        ("trimmed_mean", {"trimmed_share": 0.0}, "uniform"),
        ("multi_krum", {"byzantine_clients": 1, "kept_clients": 6}, "uniform"),
        ("geometric_median", {"iterations": 0}, "examples"),
        ("norm_bound", {"bound": 1e6}, "examples"),
    ],
)
def test_neutral_settings_are_fedavg(name, neutral, weighting):
    start, rounds = random_rounds(seed=12, clients=(6, 6))
    plain = run_random(algorithm("fedavg", weighting=weighting), start, rounds)
    assert same_bits(run_random(algorithm(name, **neutral), start, rounds), plain)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"norm_bound"}))
def test_one_hostile_client_of_seven_moves_fedavg_far_and_these_hardly(name):
    draw = np.random.default_rng(0)
    deltas = [(1 + 0.1 * draw.standard_normal(20)).astype(np.float32) for _ in range(6)]
    deltas.append(np.full(20, -1e4, dtype=np.float32))
    assert np.abs(step(algorithm("fedavg"), deltas).numpy() - 1).max() > 1000
    assert np.abs(step(algorithm(name, **ALL[name]), deltas).numpy() - 1).max() < 0.4


@given(st.permutations(range(6)), st.sampled_from(sorted(ALL)))
def test_the_order_of_arrival_does_not_show(order, name):
    draw = np.random.default_rng(1)
    updates = [
        Update(f"client-{k}", {"w": torch.from_numpy(draw.standard_normal(5).astype(np.float32))}, k + 1)
        for k in range(6)
    ]
    rule, x = algorithm(name, **ALL[name]), {"w": torch.zeros(5)}
    first, _ = rule.step(x, {}, updates)
    second, _ = rule.step(x, {}, [updates[k] for k in order])
    assert torch.equal(first["w"], second["w"])


def test_equal_scores_go_to_the_name_that_comes_first():
    corners = [
        Update(name, {"w": torch.tensor(at)}, 1)
        for name, at in [("d", (1.0, 1.0)), ("b", (0.0, 1.0)), ("c", (1.0, 0.0)), ("a", (0.0, 0.0))]
    ]
    rule = algorithm("krum", byzantine_clients=0)
    adapter, _ = rule.step({"w": torch.full((2,), 5.0)}, {}, corners)
    assert adapter["w"].tolist() == [5.0, 5.0]


def test_near_twins_far_from_the_origin_are_told_apart():
    """Distances of 1e-3 between updates of length 1e3: fp32 products would see none."""
    deltas = [(1000.0, 0.0), (1000.0, 1e-3), (1000.0, 3e-3), (1000.0, 7e-3)]
    assert step(algorithm("krum", byzantine_clients=0), deltas).tolist() == pytest.approx([1000.0, 1e-3])


def test_equal_updates_are_their_own_geometric_median():
    delta = np.random.default_rng(2).standard_normal(50).astype(np.float32)
    np.testing.assert_allclose(step(algorithm("geometric_median"), [delta] * 5, [1, 2, 3, 4, 5]).numpy(), delta)


@pytest.mark.parametrize("name", ALL)
def test_zeros_stay_zero_and_nobody_changes_nothing(name):
    rule = algorithm(name, **ALL[name])
    assert torch.equal(step(rule, [(0.0, 0.0)] * 5), torch.zeros(2))
    adapter, _ = rule.step(X, {}, [])
    assert torch.equal(adapter["w"], X["w"])


@pytest.mark.parametrize("name", ALL)
def test_bad_updates_are_left_out(name):
    updates = [Update(str(k), {"w": torch.tensor([0.25, 0.5]) / 8}, 1) for k in range(5)]
    bad = Update("eve", {"w": torch.tensor([float("inf"), 0.0])}, 1)
    rule = algorithm(name, **ALL[name])
    with pytest.warns(UserWarning, match="'eve' rejected.*not finite"):
        adapter, _ = rule.step(X, {}, [*updates[:2], bad, *updates[2:]])
    assert torch.equal(adapter["w"], X["w"] + updates[0].delta["w"])


def test_too_few_updates_to_tell_leave_the_adapter():
    with pytest.warns(UserWarning, match="5 updates, and 2 hostile ones .*7 are needed"):
        assert torch.equal(step(algorithm("krum", byzantine_clients=2), POINTS), torch.zeros(2))


def test_rejected_updates_are_counted_among_the_hostile_ones():
    """With f = 2 five updates are too few, but one of six that were sent has given itself away."""
    sent = [Update(str(k), {"w": torch.tensor(delta)}, 1) for k, delta in enumerate(POINTS)]
    bad = Update("eve", {"w": torch.full((2,), float("nan"))}, 1)
    x = {"w": torch.zeros(2)}
    with pytest.warns(UserWarning, match="'eve' rejected"):
        found, _ = algorithm("krum", byzantine_clients=2).step(x, {}, [*sent, bad])
    expected, _ = algorithm("krum", byzantine_clients=1).step(x, {}, sent)
    assert torch.equal(found["w"], expected["w"])


def test_what_was_collected_is_one_nameless_file_and_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reference = {"b": torch.zeros(3, 2), "a": torch.zeros(4)}
    rows = np.random.default_rng(3).standard_normal((5, 10)).astype(np.float32)
    updates = [
        Update(f"{9 - k}", {"a": torch.from_numpy(row[6:]), "b": torch.from_numpy(row[:6]).view(3, 2)}, k + 1)
        for k, row in enumerate(rows)
    ]
    monkeypatch.setattr(collected_module, "BLOCK", 15)
    with collected(iter(updates), reference, "examples") as matrix:
        assert os.listdir(tmp_path) == []
        assert matrix.clients == ["5", "6", "7", "8", "9"]
        assert matrix.weights == [5, 4, 3, 2, 1]
        blocks = [(name, entries, block.clone()) for name, entries, block in matrix.blocks()]
        assert [name for name, _, _ in blocks] == ["b", "b", "a", "a"]
        assert [block.shape for _, _, block in blocks] == [(5, 3), (5, 3), (5, 3), (5, 1)]
        np.testing.assert_array_equal(torch.cat([block for _, _, block in blocks], dim=1).numpy(), rows[::-1])
        mean = matrix.combination([1.0, 0.0, 0.0, 0.0, 3.0])
        np.testing.assert_allclose(
            mean["a"].numpy(), np.average(rows[[4, 0], 6:].astype(float), axis=0, weights=[1, 3])
        )
        assert mean["b"].shape == (3, 2)


def test_half_precision_updates_are_kept_exactly():
    x = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    _, rounds = random_rounds(seed=9, rounds=1)
    updates = []
    for k, (delta, size) in enumerate(rounds[0]):
        updates.append(Update(str(k), {name: value.bfloat16() for name, value in as_tensors(delta).items()}, size))
    adapter, _ = algorithm("geometric_median", iterations=0).step(x, {}, updates)
    one = [({name: value.float().numpy() for name, value in u.delta.items()}, u.num_examples) for u in updates]
    for name in SHAPES:
        assert torch.equal(adapter[name], torch.from_numpy(mean_of(one, name)).bfloat16())
