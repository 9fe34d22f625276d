"""The specification's worked numbers: s = 1, two clients with 1 and 3 examples."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import Update, algorithm
from fedloom.aggregation.lora.factors import Pair, product_norm, product_svd, weighted_sum

from .adapters import A, B, R, adapter_of, base_of, dense, product, tensor, update_to

X = adapter_of([[0.5, -0.25]], [[0.125], [1]])
Y1, Y2 = adapter_of([[1, 0]], [[1], [2]]), adapter_of([[0, 1]], [[3], [0]])
M = np.array([[0.25, 2.25], [0.5, 0]])
RUN = {"flora": {"scale": 1.0, "seed": 0}, "fedex_lora": {"scale": 1.0}}


def step(name, x=X, ys=(Y1, Y2), **options):
    rule = algorithm(name, **RUN.get(name, {}), **options)
    return rule.step(x, rule.init(x), [update_to(x, y, str(k), 1 + 2 * k) for k, y in enumerate(ys)])


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance)


def test_fedavg_on_factors():
    x, _ = step("fedavg")
    close(product(x), [[0.625, 1.875], [0.125, 0.375]])
    close(np.linalg.norm(product(x) - M), 0.75)


def test_fedex_lora():
    x, state = step("fedex_lora", weighting="examples")
    close(base_of(state), [[-0.375, 0.375], [0.375, -0.375]])
    close(state["base/w" + B], [[-1.5], [1.5]])
    close(state["base/w" + A], [[0.25, -0.25]])
    close(product(x) + base_of(state), M)


def test_flora():
    x, state = step("flora")
    close(state["base/w" + B], [[1, 3], [2, 0]])
    close(state["base/w" + A], [[0.25, 0], [0, 0.75]])
    close(x["w" + B], [[0], [0]])


def test_flexlora():
    pairs = [Pair(y["w" + A], y["w" + B]) for y in (Y1, Y2)]
    close(product_svd(weighted_sum(pairs, [0.25, 0.75])).s, [2.264554, 0.496787])
    x, _ = step("flexlora")
    close(x["w" + B], [[2.263811], [0.058008]])
    close(x["w" + A], [[0.116017, 0.993247]])
    close(np.linalg.norm(product(x) - M), 0.496787)


def test_flexlora_with_square_roots_in_both_factors():
    x, _ = step("flexlora", singular_values="sqrt")
    root = np.sqrt(2.264554)
    close(x["w" + B], np.array([[2.263811], [0.058008]]) / root)
    close(x["w" + A], np.array([[0.116017, 0.993247]]) * root)


def test_hetlora():
    x = adapter_of([[0.5, -0.25], [1, 1]], [[0.125, 2], [1, -1]])
    wide = adapter_of([[0, 1], [1, 1]], [[3, 1], [0, 1]])
    norms = [product_norm(Pair(y["w" + A], y["w" + B])) for y in (Y1, wide)]
    close(norms, [2.236068, 4.358899])
    result, _ = step("hetlora", x, (Y1, wide))
    close(result["w" + A], [[0.339057, 0.660943], [0.660943, 0.660943]])
    close(result["w" + B], [[2.321887, 0.660943], [0.678113, 0.660943]])
    per_layer, _ = step("hetlora", x, (Y1, wide), weighting="layer_norms")
    for name in result:
        assert torch.equal(per_layer[name], result[name]), "with one layer there is no difference"


def test_fed_sb():
    x = {**adapter_of(np.eye(2), np.eye(2)), "w" + R: tensor([[2, 1], [0, 1]])}
    ys = [{"w" + R: tensor(r)} for r in ([[1, 0], [0, 2]], [[0, 1], [1, 0]])]
    result, _ = step("fed_sb", x, ys)
    close(result["w" + R], [[0.25, 0.75], [0.75, 0.5]])
    assert torch.equal(result["w" + A], x["w" + A])


@pytest.mark.parametrize(("name", "factor", "other"), [("ffa_lora", B, A), ("rolora", B, A), ("fedsa_lora", A, B)])
def test_one_factor_is_averaged_and_the_other_is_left(name, factor, other):
    rule = algorithm(name)
    updates = [Update(str(k), {"w" + factor: y["w" + factor] - X["w" + factor]}, n) for k, y, n in
               [(0, Y1, 1), (1, Y2, 3)]]  # fmt: skip
    result, _ = rule.step(X, rule.init(X), updates)
    close(result["w" + factor], 0.25 * dense(Y1["w" + factor]) + 0.75 * dense(Y2["w" + factor]))
    assert torch.equal(result["w" + other], X["w" + other])
