"""Adapters and updates for the tests, and what they stand for as dense numpy matrices."""

import numpy as np
import torch

from fedloom.aggregation import Update

A, B, R = ".lora_A.weight", ".lora_B.weight", ".lora_R.weight"


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def adapter_of(a, b, layer="w"):
    return {layer + A: tensor(a), layer + B: tensor(b)}


def dense(value):
    """A tensor as numpy numbers, fp64."""
    return value.double().numpy()


def sent_at(x, rank):
    """The first rows of A and columns of B, written without the code under test."""
    cut = {}
    for name, value in x.items():
        cut[name] = value[:rank] if name.endswith(A) else value[:, :rank] if name.endswith(B) else value
    return cut


def update_to(x, y, client, size=1, **more):
    """The update of a client that ends at y; x is the global adapter, y may be of a lower rank."""
    first = next((name for name in y if name.endswith(A)), None)
    sent = x if first is None else sent_at(x, len(y[first]))
    return Update(client, {name: value - sent[name] for name, value in y.items()}, size, **more)


def shares(weights):
    return np.asarray(weights, dtype=float) / np.sum(weights)


def base_of(state, layer="w"):
    """The dense change of the base, [out, in]."""
    return dense(state[f"base/{layer}{B}"]) @ dense(state[f"base/{layer}{A}"])


def product(x, layer="w"):
    return dense(x[layer + B]) @ dense(x[layer + A])
