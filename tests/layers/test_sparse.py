"""Which neurons a client trains of its private layers, and that nothing else moves."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.training.sparse import neuron_mask, neurons_of, next_fisher

A, B = "layers.3.q_proj.lora_A.weight", "layers.3.q_proj.lora_B.weight"


def test_fisher_with_momentum() -> None:
    first, second = torch.tensor([4.0, 1.0, 2.0, 0.5]), torch.tensor([0.0, 3.0, 2.0, 6.0])
    assert torch.equal(next_fisher(None, first, 0.9), first)
    after = next_fisher(first, second, 0.9)
    torch.testing.assert_close(after, torch.tensor([3.6, 1.2, 2.0, 1.05]))
    # Four neurons of one parameter each: the upper half are the first and the third.
    mask = neuron_mask(after, neurons_of({"layers.0.bias": (4,)}), 0.5)
    assert mask.tolist() == [True, False, True, False]


def test_without_momentum_the_newest_alone_counts() -> None:
    second = torch.tensor([0.0, 3.0])
    assert torch.equal(next_fisher(torch.tensor([7.0, 1.0]), second, 0.0), second)


def test_neurons_are_rows_of_b_columns_of_a_and_rows_of_anything_else() -> None:
    neurons = neurons_of({A: (2, 3), B: (4, 2), "layers.5.mlp.bottleneck.down.weight": (2, 2), "score.weight": (1, 2)})
    assert neurons.of_entry.tolist() == [0, 1, 2, 0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert neurons.layers.tolist() == [3] * 7 + [5] * 2 + [-1]


def test_each_layer_has_its_own_best() -> None:
    neurons = neurons_of({"layers.0.bias": (3,), "layers.1.bias": (2,)})
    mask = neuron_mask(torch.tensor([5.0, 6.0, 7.0, 0.1, 0.2]), neurons, 0.5)
    # ceil(1.5) of the one, 1 of the other.
    assert mask.tolist() == [False, True, True, False, True]


@given(st.lists(st.floats(0, 1e3, width=32), min_size=14, max_size=14), st.floats(0.01, 1.0))
def test_a_mask_takes_whole_neurons(fisher: list[float], share: float) -> None:
    neurons = neurons_of({A: (2, 3), B: (4, 2)})
    values = torch.tensor(fisher)
    mask = neuron_mask(values, neurons, share)
    importance = torch.zeros(7, dtype=torch.float64).index_add_(0, neurons.of_entry, values.double())
    kept = [bool(mask[neurons.of_entry == neuron].any()) for neuron in range(7)]
    assert kept == [bool(mask[neurons.of_entry == neuron].all()) for neuron in range(7)]
    assert sum(kept) == math.ceil(share * 7 - 1e-9)
    # None that is left out matters more than one that is kept.
    left = [float(importance[neuron]) for neuron in range(7) if not kept[neuron]]
    assert not left or max(left) <= min(float(importance[neuron]) for neuron in range(7) if kept[neuron])
