"""Our optimisers on one vector are torch's."""

import numpy as np
import pytest
import torch

from fedloom.recipe.schema import LocalConfig
from fedloom.training.batches import round_batches
from fedloom.training.optimizers import clip_gradient, local_optimizer
from fedloom.training.schedule import learning_rate

CASES = [
    (LocalConfig(optimizer="adamw"), lambda p, rate: torch.optim.AdamW(p, lr=rate, weight_decay=0.0)),
    (
        LocalConfig(optimizer="adamw", weight_decay=0.1, epsilon=1e-3),
        lambda p, rate: torch.optim.AdamW(p, lr=rate, weight_decay=0.1, eps=1e-3),
    ),
    (LocalConfig(optimizer="sgd"), lambda p, rate: torch.optim.SGD(p, lr=rate)),
    (
        LocalConfig(optimizer="sgd", momentum=0.9, weight_decay=0.1),
        lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9, weight_decay=0.1),
    ),
]


@pytest.mark.parametrize(("local", "theirs"), CASES)
def test_equal_to_torch_with_a_changing_rate(local, theirs):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(1000, generator=generator)
    parameter = torch.nn.Parameter(ours.clone())
    optimizer, reference = local_optimizer(local), theirs([parameter], 0.1)
    state = optimizer.init(ours)
    for step in range(20):
        gradient = torch.randn(1000, generator=generator) * 10 ** (-step / 3)
        reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([parameter], 5.0)
        reference.step()
        clip_gradient(gradient, 5.0)
        optimizer.update(ours, gradient, state, 0.1 / (step + 1))
    torch.testing.assert_close(ours, parameter.data, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("schedule", "expected"), [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25])])
def test_schedule_over_rounds(schedule, expected):
    local = LocalConfig(schedule=schedule)
    assert [learning_rate(local, 1.0, number, 4) for number in range(1, 5)] == expected


def test_cosine_starts_at_the_rate_and_stays_positive():
    rates = [learning_rate(LocalConfig(schedule="cosine"), 2.0, number, 10) for number in range(1, 11)]
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.1
    assert rates[5] == pytest.approx(1.0)


def test_epochs_visit_every_example_once():
    local = LocalConfig(epochs=3, batch_size=4)
    batches = round_batches(10, local, 4, seed=0, round_number=1, client="a")
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    assert len(batches) == 9
    for first in (0, 3, 6):
        assert sorted(np.concatenate(batches[first : first + 3])) == list(range(10))


@pytest.mark.parametrize("examples", [1, 3, 4, 10, 1000])
def test_steps_go_through_the_examples_evenly(examples):
    batches = round_batches(examples, LocalConfig(steps=25, batch_size=4), 4, seed=0, round_number=1, client="a")
    counts = np.bincount(np.concatenate(batches), minlength=examples)
    assert len(batches) == 25
    assert {len(batch) for batch in batches} == {min(4, examples)}
    assert counts.max() - counts.min() <= 1


def test_batches_have_addresses():
    local = LocalConfig(steps=5, batch_size=4)
    drawn = {
        (seed, number, client): tuple(np.concatenate(round_batches(100, local, 4, seed, number, client)))
        for seed in (0, 1)
        for number in (1, 2)
        for client in ("a", "b")
    }
    assert len(set(drawn.values())) == len(drawn)
    assert drawn[0, 1, "a"] == tuple(np.concatenate(round_batches(100, local, 4, 0, 1, "a")))
