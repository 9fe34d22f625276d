"""The chunked loss of the output head equals the plain one."""

import pytest
import torch

from fedloom.model import head_loss
from fedloom.model.head_loss import label_cross_entropy, label_scores


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_cross_entropy(monkeypatch, dtype, with_bias):
    # Three chunks, the last one shorter.
    monkeypatch.setattr(head_loss, "ROWS", 64)
    generator = torch.Generator().manual_seed(0)
    hidden = (3 * torch.randn(150, 16, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(300, 16, generator=generator).to(dtype)
    bias = torch.randn(300, generator=generator).to(dtype) if with_bias else None
    labels = torch.randint(300, (150,), generator=generator)
    factors = torch.rand(150, generator=generator)
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    (expected_gradient,) = torch.autograd.grad((expected * factors).sum(), hidden)
    losses = label_cross_entropy(hidden, weight, labels, bias)
    (gradient,) = torch.autograd.grad((losses * factors).sum(), hidden)
    torch.testing.assert_close(losses, expected, atol=2e-5, rtol=1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (gradient - expected_gradient).float().norm() < tolerance * expected_gradient.float().norm()
    scored, predicted = label_scores(hidden, weight, labels, bias)
    assert torch.equal(scored, losses.detach())
    assert torch.equal(predicted, logits.argmax(-1))


def test_an_impossible_label_has_a_finite_loss():
    hidden, weight = torch.full((1, 1), 200.0), torch.tensor([[1.0], [-1.0]])
    assert label_cross_entropy(hidden, weight, torch.tensor([1])).item() == pytest.approx(400.0)
