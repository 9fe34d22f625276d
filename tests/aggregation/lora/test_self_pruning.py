"""HetLoRA's clients: the loss term's gradient, and when and how far a client lowers its rank."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import ClientRound, algorithm

from .adapters import A, B

SHAPES = {"p" + A: (4, 5), "p" + B: (6, 4), "q" + A: (4, 3), "q" + B: (2, 4), "head": (3,)}
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())


def views(vector):
    named, first = {}, 0
    for name, shape in SHAPES.items():
        last = first + int(np.prod(shape))
        named[name] = vector[first:last].view(shape)
        first = last
    return named


def vector(seed, rank=4):
    """Random values, zero beyond a rank."""
    values = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))
    for layer in "pq":
        views(values)[layer + A][rank:] = 0
        views(values)[layer + B][:, rank:] = 0
    return values


def begin(rule, start, rank, kept=None):
    kept = {} if kept is None else {"rank": torch.tensor(float(kept))}
    client = ClientRound(start, start, {"rank": torch.tensor([float(rank)])}, kept, views)
    return rule.begin(client)


def tails(values, first, last):
    """sum over layers of the tails' norms multiplied, as the specification writes it."""
    named = views(values)
    return sum(named[layer + B][:, first:last].norm() * named[layer + A][first:last].norm() for layer in "pq")


@pytest.mark.parametrize(("rank", "gamma", "first"), [(4, 0.5, 2), (3, 0.7, 2), (4, 0.9, 3), (4, 0.1, 1)])
def test_the_term_s_gradient_is_autograd_s(rank, gamma, first):
    rule = algorithm("hetlora", gamma=gamma, lam=0.3).client
    values = vector(1, rank).requires_grad_()
    (0.3 * tails(values, first, rank)).backward()
    gradients = vector(2)
    expected = gradients + values.grad
    rule.before_clipping(values.detach(), gradients, begin(rule, vector(3, rank), rank))
    torch.testing.assert_close(gradients, expected)


def test_without_b_the_term_pulls_at_nothing():
    rule = algorithm("hetlora", gamma=0.5).client
    values, gradients = vector(1), torch.zeros(SIZE)
    for layer in "pq":
        views(values)[layer + B].zero_()
    rule.before_clipping(values, gradients, begin(rule, values, 4))
    assert torch.equal(gradients, torch.zeros(SIZE))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.0), (0.5, 0.0)])
def test_no_term_no_gradient(gamma, lam):
    rule = algorithm("hetlora", gamma=gamma, lam=lam).client
    gradients = torch.zeros(SIZE)
    rule.before_clipping(vector(1), gradients, begin(rule, vector(2), 4))
    assert not gradients.any()


def test_a_client_whose_tails_shrank_drops_them():
    rule = algorithm("hetlora", gamma=0.5).client
    start, values = vector(1), vector(1)
    memory = begin(rule, start, 4)
    for layer in "pq":
        views(values)[layer + A][2:] *= 0.9
    before = values.clone()
    finish = rule.finish(values, memory)
    assert finish.metrics == {"rank": 2.0}
    assert float(finish.kept["rank"]) == 2.0
    assert tails(values, 2, 4) == 0.0
    for name, value in views(values).items():
        kept = value[:2] if name.endswith(A) else value[:, :2] if name.endswith(B) else value
        whole = views(before)[name]
        assert torch.equal(kept, whole[:2] if name.endswith(A) else whole[:, :2] if name.endswith(B) else whole)
    # The next round begins from what was kept: half of it once more.
    assert begin(rule, values, 4, kept=finish.kept["rank"])["pruned"] == 1.0


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_a_client_whose_tails_did_not_shrink_keeps_its_rank(factor):
    rule = algorithm("hetlora", gamma=0.5).client
    start = vector(1)
    memory = begin(rule, start, 4)
    values = start * factor
    before = values.clone()
    finish = rule.finish(values, memory)
    assert finish.metrics == {"rank": 4.0}
    assert torch.equal(values, before)


@pytest.mark.parametrize(
    ("rank", "gamma", "r_min", "pruned"),
    [(4, 0.75, 1, 3), (4, 1.0, 1, 4), (4, 0.1, 2, 2), (2, 0.5, 3, 2), (1, 0.5, 1, 1)],
)
def test_how_far_a_rank_may_fall(rank, gamma, r_min, pruned):
    rule = algorithm("hetlora", gamma=gamma, lam=0.0, r_min=r_min).client
    assert begin(rule, vector(0, rank), rank)["pruned"] == float(pruned)


def test_rounding_costs_no_rank():
    """0.58 * 50 is a little under 29 in floating point."""
    rule = algorithm("hetlora", gamma=0.58).client
    wide = torch.zeros(100)
    client = ClientRound(
        wide, wide, {"rank": torch.tensor(50.0)}, {}, lambda v: {"w" + A: v[:50, None], "w" + B: v[None, 50:]}
    )
    assert rule.begin(client)["pruned"] == 29.0
