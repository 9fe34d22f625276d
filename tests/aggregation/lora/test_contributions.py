"""What the rules that need every client's factors accept, and that neither order nor length of a run shows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.aggregation import Update, algorithm
from fedloom.aggregation.lora.factors import Pair, product_norm, product_svd, truncated, with_factors, with_rank
from fedloom.errors import UserError
from fedloom.randomness import torch_generator

from .adapters import A, B, R, adapter_of, base_of, dense, tensor

COLLECTING = {
    "flora": {"scale": 1.0, "seed": 5},
    "flexlora": {},
    "hetlora": {},
    "fedex_lora": {"scale": 1.0},
}
MIXED = [name for name in COLLECTING if name != "fedex_lora"]
DRAW = np.random.default_rng(0)
X = {
    **adapter_of(DRAW.normal(size=(3, 4)), DRAW.normal(size=(5, 3)), "p"),
    **adapter_of(DRAW.normal(size=(3, 6)), DRAW.normal(size=(4, 3)), "q"),
    "head": tensor(DRAW.normal(size=(2,))),
}


def build(name, **options):
    return algorithm(name, **COLLECTING[name], **options)


def update(client, rank=3, size=1, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    delta = {end: torch.randn(value.shape, generator=generator) for end, value in truncated(X, rank).items()}
    return Update(client, {**delta, **changes}, size)


@pytest.mark.parametrize("name", COLLECTING)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"q{A}": torch.zeros(2, 6)}, r"q\.lora_A\.weight has shape \[2, 6\], not \[3, 6\]"),
        ({f"p{B}": torch.zeros(5, 2)}, r"p\.lora_B\.weight has shape \[5, 2\], not \[5, 3\]"),
        ({f"p{A}": torch.zeros(3, 5)}, r"p\.lora_A\.weight has shape \[3, 5\], not \[3, 4\]"),
        ({f"q{B}": torch.full((4, 3), math.nan)}, "not finite"),
        ({"head": torch.zeros(2, dtype=torch.int64)}, "int64"),
        ({"other": torch.zeros(1)}, "names differ"),
    ],
)
def test_bad_factors_are_left_out_by_name(name, changes, message):
    rule, good = build(name), update("good")
    with pytest.warns(UserWarning, match=f"client 'eve' rejected: delta: .*{message}"):
        with_eve, _ = rule.step(X, rule.init(X), [update("eve", **changes), good])
    alone, _ = rule.step(X, rule.init(X), [good])
    assert all(torch.equal(with_eve[end], alone[end]) for end in X)


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("rank", [0, 4])
def test_ranks_out_of_bounds_are_refused(name, rank):
    shapes = {f"p{A}": (rank, 4), f"p{B}": (5, rank), f"q{A}": (rank, 6), f"q{B}": (4, rank)}
    eve = Update("eve", {**{end: torch.zeros(shape) for end, shape in shapes.items()}, "head": torch.zeros(2)}, 1)
    rule = build(name)
    with pytest.warns(UserWarning, match=rf"'eve' rejected: .*has rank {rank}, must be from 1 to 3"):
        result, state = rule.step(X, rule.init(X), [eve])
    assert all(torch.equal(result[end], X[end]) for end in X)
    assert all(torch.equal(value, rule.init(X)[end]) for end, value in state.items())


@pytest.mark.parametrize("name", MIXED)
def test_a_missing_first_factor_is_refused(name):
    delta = {end: value for end, value in update("eve").delta.items() if end != f"p{A}"}
    with pytest.warns(UserWarning, match="names differ"):
        build(name).step(X, build(name).init(X), [Update("eve", delta, 1)])


def test_lower_ranks_are_refused_where_factors_are_averaged():
    with pytest.warns(UserWarning, match=r"'eve' rejected: .*has shape \[2, 4\], not \[3, 4\]"):
        build("fedex_lora").step(X, build("fedex_lora").init(X), [update("eve", 2)])


@pytest.mark.parametrize("name", COLLECTING)
@settings(deadline=None)
@given(order=st.permutations(range(4)))
def test_the_order_of_arrival_does_not_show(name, order):
    rule = build(name)
    arrived = [update(str(k), 1 + k % 3 if rule.mixed_ranks else 3, k + 1, seed=k) for k in range(4)]
    first, first_state = rule.step(X, rule.init(X), arrived)
    second, second_state = rule.step(X, rule.init(X), [arrived[k] for k in order])
    # Everything but the head is taken in client-id order; its sums are fp64.
    assert all(torch.equal(first[end], second[end]) for end in X if end != "head")
    torch.testing.assert_close(first["head"], second["head"], rtol=1e-7, atol=1e-12)
    assert all(torch.equal(value, second_state[end]) for end, value in first_state.items())


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"w": torch.ones(2)}, "no tensor is named"),
        ({"w" + A: torch.ones(2, 2)}, "'w' has only one of the factors"),
        ({"w" + B: torch.ones(2, 2)}, "'w' has only one of the factors"),
    ],
)
@pytest.mark.parametrize("name", ["fedex_lora", "flexlora"])
def test_adapters_without_pairs_are_refused(name, adapter, message):
    with pytest.raises(UserError, match=message):
        build(name).step(adapter, {}, [])


@pytest.mark.parametrize("name", ["ffa_lora", "rolora", "fedsa_lora"])
def test_without_pairs_there_is_no_factor_to_average(name):
    rule = algorithm(name)
    with pytest.raises(UserError, match="no tensor is named"):
        rule.step({"w": torch.ones(2)}, rule.init({}), [])


def test_an_empty_round_leaves_rolora_where_it_was():
    rule = algorithm("rolora")
    _, state = rule.step(X, rule.init(X), [])
    assert rule.trained(state) == "B"


@pytest.mark.parametrize("name", ["flora", "fedex_lora"])
def test_the_change_of_the_base_adds_up_and_stays_bounded(name):
    """Ten rounds of three clients: 90 ranks, in layers whose smaller side is 4."""
    rule = build(name)
    x, state = X, rule.init(X)
    expected = {"p": np.zeros((5, 4)), "q": np.zeros((4, 6))}
    for turn in range(10):
        updates = [update(str(k), seed=10 * turn + k) for k in range(3)]
        ends = [{end: dense(x[end]) + dense(one.delta[end]) for end in x} for one in updates]
        x, state = rule.step(x, state, updates)
        for layer in expected:
            expected[layer] += sum(end[layer + B] @ end[layer + A] for end in ends) / 3
            if name == "fedex_lora":
                expected[layer] -= sum(end[layer + B] for end in ends) @ sum(end[layer + A] for end in ends) / 9
    for layer, total in expected.items():
        assert state[f"base/{layer}{A}"].shape[0] == 4
        np.testing.assert_allclose(base_of(state, layer), total, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", COLLECTING)
def test_results_have_the_adapter_s_format_and_the_base_a_finer_one(name):
    rule = build(name)
    x = {end: value.bfloat16() for end, value in X.items()}
    arrived = [replace(one, delta={end: value.bfloat16() for end, value in one.delta.items()}) for one in
               (update("a", seed=1), update("b", seed=2))]  # fmt: skip
    result, state = rule.step(x, rule.init(x), arrived)
    assert {value.dtype for value in result.values()} == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for end, value in state.items() if end.startswith("base/"))
    # The head is a plain mean: rounded once, from exact sums.
    exact = sum(dense(x["head"]) + dense(one.delta["head"]) for one in arrived) / 2
    assert torch.equal(result["head"], torch.from_numpy(exact).bfloat16())


@pytest.mark.parametrize(
    ("factors", "left"), [("both", {A, B, "head"}), ("A", {A, "head"}), ("B", {B, "head"}), ("R", {R, "head"})]
)
def test_what_is_left_of_an_adapter_where_some_factors_are_sent(factors, left):
    adapter = dict.fromkeys([A, B, R, "head"], torch.ones(1))
    assert with_factors(adapter, factors).keys() == left


def test_flora_draws_its_factors_anew():
    def rounds(seed):
        rule = algorithm("flora", scale=1.0, seed=seed)
        x, state, seen = X, rule.init(X), []
        for _ in range(2):
            x, state = rule.step(x, state, [update("a")])
            seen.append(x)
        return seen

    first, second = rounds(5)
    for turn, x in ((1, first), (2, second)):
        generator = torch_generator(5, f"adapter q{A}", turn)
        assert torch.equal(
            x["q" + A], torch.empty(3, 6).uniform_(-math.sqrt(1 / 6), math.sqrt(1 / 6), generator=generator)
        )
        assert not x["q" + B].any()
    assert not torch.equal(first["q" + A], second["q" + A])
    assert not torch.equal(first["q" + A], rounds(6)[0]["q" + A])
    assert all(torch.equal(first[end], rounds(5)[0][end]) for end in X)


def test_flexlora_fills_up_where_ranks_add_up_to_less():
    result, _ = build("flexlora").step(X, {}, [update("a", 1)])
    assert result["p" + A].shape == (3, 4)
    assert not result["p" + A][1:].any()
    assert not result["p" + B][:, 1:].any()


def test_hetlora_weighs_alike_where_all_products_are_zero():
    zero_b = {layer + B: -X[layer + B] for layer in "pq"}
    ones = [update(str(k), seed=k, **zero_b) for k in range(2)]
    for weighting in ("norms", "layer_norms"):
        result, _ = build("hetlora", weighting=weighting).step(X, {}, ones)
        expected = dense(X["p" + A]) + (dense(ones[0].delta["p" + A]) + dense(ones[1].delta["p" + A])) / 2
        np.testing.assert_allclose(dense(result["p" + A]), expected, rtol=0, atol=1e-6)


def test_hetlora_with_neutral_settings_is_fedavg():
    updates = [update(str(k), size=k + 1, seed=k) for k in range(3)]
    ours, _ = build("hetlora", weighting="examples", gamma=1.0, lam=0.0).step(X, {}, updates)
    fedavg, _ = algorithm("fedavg").step(X, {}, updates)
    for end in X:
        torch.testing.assert_close(ours[end], fedavg[end], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hetlora", {"gamma": 0.0}, "gamma: .*greater than 0"),
        ("hetlora", {"gamma": 1.5}, "gamma: .*less than or equal to 1"),
        ("hetlora", {"lam": -1.0}, "lam: .*greater than or equal to 0"),
        ("hetlora", {"r_min": 0}, "r_min"),
        ("fedex_lora", {"residual_rank": 0}, "residual_rank: .*greater than 0"),
        ("flexlora", {"singular_values": "right"}, "singular_values.*'left' or 'sqrt'"),
    ],
)
def test_parameters_out_of_bounds(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, **options)


def test_a_small_difference_of_products_is_measured_exactly():
    """In squares, as Gram matrices have it, 1e-10 of the norm would be lost."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=generator).double(), torch.randn(60, 2, generator=generator).double()
    near = Pair(torch.cat([a, -a * (1 + 1e-10)]), torch.cat([b, b], dim=1))
    assert product_norm(near) == pytest.approx(1e-10 * torch.linalg.norm(b @ a).item(), rel=1e-4)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_the_svd_of_a_product_is_that_of_the_dense_matrix(outputs, inputs, rank, seed):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(rank, inputs)), draw.normal(size=(outputs, rank))
    u, s, vh = (part.numpy() for part in product_svd(Pair(torch.from_numpy(a), torch.from_numpy(b))))
    np.testing.assert_allclose(u * s @ vh, b @ a, rtol=0, atol=1e-11)
    np.testing.assert_allclose(s, np.linalg.svd(b @ a, compute_uv=False)[: len(s)], rtol=0, atol=1e-11)
    assert (u[np.abs(u).argmax(0), np.arange(len(s))] > 0).all()
    wide = with_rank(Pair(torch.from_numpy(a), torch.from_numpy(b)), 9)
    np.testing.assert_allclose((wide.b @ wide.a).numpy(), b @ a, rtol=0, atol=1e-12)
