"""The specification's two worked rounds, and random ones for references in NumPy."""

from __future__ import annotations

import numpy as np
import torch

from fedloom.aggregation import Update

X = {"w": torch.tensor([1.0, -2.0])}
ROUNDS = [([0.4, -0.2], [-0.1, 0.6]), ([0.2, 0.1], [0.3, -0.5])]
SIZES = (1, 3)
SHAPES = {"layer.lora_A.weight": (3, 5), "layer.lora_B.weight": (4, 3), "head": (7,)}


def worked_updates(deltas, metrics=({}, {})):
    """The two clients' updates of a worked round."""
    return [
        Update(str(k), {"w": torch.tensor(delta)}, size, own)
        for k, (delta, size, own) in enumerate(zip(deltas, SIZES, metrics, strict=True))
    ]


def assert_worked(algorithm, expected, metrics=(({}, {}), ({}, {})), atol=1e-6):
    """Both rounds end where the specification says."""
    adapter, state = X, algorithm.init(X)
    for deltas, own, wanted in zip(ROUNDS, metrics, expected, strict=True):
        adapter, state = algorithm.step(adapter, state, iter(worked_updates(deltas, own)))
        torch.testing.assert_close(adapter["w"], torch.tensor(wanted), rtol=0, atol=atol)
    assert torch.equal(X["w"], torch.tensor([1.0, -2.0])), "the given adapter is left as it is"


def random_rounds(seed, rounds=3, clients=(2, 4), scale=0.1):
    """An adapter of several tensors and rounds of (deltas, sizes) by client, as NumPy arrays in fp32."""
    draw = np.random.default_rng(seed)

    def tensors(factor):
        return {name: (factor * draw.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}

    start = tensors(1.0)
    return start, [
        [(tensors(scale), int(draw.integers(1, 50))) for _ in range(int(draw.integers(clients[0], clients[1] + 1)))]
        for _ in range(rounds)
    ]


def as_tensors(arrays):
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def run_random(algorithm, start, rounds, metrics=lambda k: {}):
    """The adapter after every round."""
    adapter = as_tensors(start)
    state, after = algorithm.init(adapter), []
    for one in rounds:
        updates = [Update(str(k), as_tensors(delta), size, metrics(k)) for k, (delta, size) in enumerate(one)]
        adapter, state = algorithm.step(adapter, state, updates)
        after.append(adapter)
    return after


def mean_of(one, name, weights=None):
    """The mean update of a round in fp64, weighted by examples unless weights are given."""
    weights = [size for _, size in one] if weights is None else weights
    return np.average([delta[name].astype(np.float64) for delta, _ in one], axis=0, weights=weights)


def assert_same_path(after, expected, rtol=1e-5, atol=1e-6):
    """Adapters after every round, within fp32 rounding of what a reference found."""
    for adapter, wanted in zip(after, expected, strict=True):
        assert adapter.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(adapter[name].numpy(), value, rtol=rtol, atol=atol, err_msg=name)


def same_bits(first, second):
    """Whether two runs passed through the very same adapters."""
    return all(torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a)
