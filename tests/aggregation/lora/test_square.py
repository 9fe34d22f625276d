"""Fed-SB's square matrix: its gradient through LoRA's, and LoRA-SB's start through LoRA's gradients alone."""

import numpy as np
import pytest
import torch

from fedloom.aggregation import algorithm
from fedloom.aggregation.lora.square import expand, gradient_range, initial_from_gradient, pull_back
from fedloom.errors import UserError

from .adapters import R, adapter_of, tensor


def test_the_gradient_of_r_is_that_of_b_r_pulled_back():
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator)
    square = torch.randn(3, 2, 2, generator=generator, requires_grad=True)
    expanded = expand(square, b).detach().requires_grad_()
    for factor in (expand(square, b), expanded):
        (factor @ a).square().sum().backward()
    torch.testing.assert_close(pull_back(expanded.grad, b), square.grad)


@pytest.mark.parametrize("more", [0, 2])
def test_start_from_sketches_is_that_of_the_dense_gradient(more):
    """A mean gradient of rank 3: two passes of LoRA's own gradients reach all of it."""
    draw, rank, scale, step_size = np.random.default_rng(1), 3, 2.0, 0.1
    inputs = torch.from_numpy(draw.normal(size=(rank + more, 6)))
    dense = torch.from_numpy(draw.normal(size=(8, rank)) @ draw.normal(size=(rank, 6)))

    def lora_gradients(a, b):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        (dense * (scale * b @ a)).sum().backward()
        return a.grad, b.grad

    _, sketch = lora_gradients(inputs, torch.zeros(8, rank + more, dtype=torch.float64))
    basis = gradient_range(sketch)
    projection, _ = lora_gradients(inputs, basis)
    start = initial_from_gradient(basis, projection / scale, rank, scale, step_size)
    np.testing.assert_allclose(scale * start.b @ start.r @ start.a, -step_size * dense, atol=1e-12)
    values = np.linalg.svd(step_size * dense.numpy(), compute_uv=False)[:rank]
    np.testing.assert_allclose(start.r, np.diag(values / scale), atol=1e-12)
    for factor in (start.a, start.b.T):
        np.testing.assert_allclose(factor @ factor.T, np.eye(rank), atol=1e-12)


def test_a_start_of_lower_rank_is_the_best_approximation():
    draw = np.random.default_rng(2)
    gradient = draw.normal(size=(7, 5))
    basis = gradient_range(torch.from_numpy(gradient))
    start = initial_from_gradient(basis, basis.T @ torch.from_numpy(gradient), rank=2, scale=1.0)
    tail = np.linalg.svd(gradient, compute_uv=False)[2:]
    error = np.linalg.norm((start.b @ start.r @ start.a).numpy() + gradient)
    np.testing.assert_allclose(error, np.linalg.norm(tail), rtol=1e-12)


@pytest.mark.parametrize(("square", "found"), [({}, "missing"), ({"w" + R: tensor(np.eye(3))}, r"\[3, 3\]")])
def test_an_adapter_without_its_square_matrix_is_refused(square, found):
    with pytest.raises(UserError, match=rf"w\.lora_R\.weight is {found}, must be \[2, 2\]"):
        algorithm("fed_sb").init({**adapter_of(np.ones((2, 4)), np.ones((4, 2))), **square})
