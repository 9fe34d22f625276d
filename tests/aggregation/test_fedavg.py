"""FedAvg against the specification's worked numbers, and what it refuses."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation import Update, algorithm

X = {"w": torch.tensor([1.0, -2.0])}
ROUNDS = [([0.4, -0.2], [-0.1, 0.6]), ([0.2, 0.1], [0.3, -0.5])]


def updates(deltas, sizes=(1, 3)):
    return [
        Update(str(k), {"w": torch.tensor(delta)}, size, {"label_tokens": 10 * size})
        for k, (delta, size) in enumerate(zip(deltas, sizes, strict=True))
    ]


def test_worked_numbers():
    fedavg = algorithm("fedavg")
    adapter, state = X, fedavg.init(X)
    for deltas, expected in zip(ROUNDS, [[1.025, -1.6], [1.3, -1.95]], strict=True):
        adapter, state = fedavg.step(adapter, state, iter(updates(deltas)))
        torch.testing.assert_close(adapter["w"], torch.tensor(expected), rtol=0, atol=1e-6)
    assert torch.equal(X["w"], torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize(("weighting", "expected"), [("uniform", [1.15, -1.8]), ("tokens", [1.025, -1.6])])
def test_weightings(weighting, expected):
    adapter, _ = algorithm("fedavg", weighting=weighting).step(X, {}, updates(ROUNDS[0]))
    torch.testing.assert_close(adapter["w"], torch.tensor(expected), rtol=0, atol=1e-6)


def test_without_updates_nothing_changes():
    adapter, _ = algorithm("fedavg").step(X, {}, [])
    assert torch.equal(adapter["w"], X["w"])


@given(
    arrays.arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=32)),
    st.permutations(range(6)),
    st.lists(st.integers(1, 1000), min_size=6, max_size=6),
)
def test_the_order_of_arrival_does_not_show(deltas, order, sizes):
    arrived = [Update(str(k), {"w": torch.from_numpy(deltas[k])}, sizes[k]) for k in range(6)]
    x = {"w": torch.zeros(4)}
    first, _ = algorithm("fedavg").step(x, {}, arrived)
    second, _ = algorithm("fedavg").step(x, {}, [arrived[k] for k in order])
    expected = np.average(deltas.astype(np.float64), axis=0, weights=sizes)
    np.testing.assert_allclose(first["w"].numpy(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first["w"], second["w"], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("delta", "size", "message"),
    [
        ({"v": torch.zeros(2)}, 1, "names differ"),
        ({"w": torch.zeros(3)}, 1, "shape"),
        ({"w": torch.zeros(2, dtype=torch.int64)}, 1, "int64"),
        ({"w": torch.tensor([0.0, float("nan")])}, 1, "not finite"),
        ({"w": torch.tensor([0.0, float("inf")])}, 1, "not finite"),
        ({"w": torch.zeros(2)}, 0, "must be > 0"),
    ],
)
def test_bad_updates_are_refused_by_name(delta, size, message):
    good = Update("adam", {"w": torch.tensor([0.5, 0.25])}, 2)
    with pytest.warns(UserWarning, match=f"client 'eve' rejected.*{message}"):
        adapter, _ = algorithm("fedavg").step(X, {}, [good, Update("eve", delta, size)])
    assert torch.equal(adapter["w"], X["w"] + good.delta["w"])


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'fedavg'"):
        algorithm("fedavgg")
    with pytest.raises(ValueError, match="did you mean 'weighting'"):
        algorithm("fedavg", weightin="uniform")
