"""Preference losses and measures against numbers worked out by hand, and what holds for any of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.evaluation.preference_scoring import PreferenceScores
from fedloom.evaluation.score_summary import ScoreSummary
from fedloom.recipe import load_recipe
from fedloom.training.preference_losses import (
    Responses,
    ipo_losses,
    kto_losses,
    orpo_losses,
    sigmoid_losses,
    simpo_losses,
)


def pairs(*sums: tuple[float, float], reference=None, tokens=None, desirable=None) -> Responses:
    policy = torch.tensor(sums, dtype=torch.float64)
    return Responses(
        policy,
        torch.ones_like(policy) if tokens is None else torch.tensor(tokens, dtype=torch.float64),
        torch.zeros_like(policy) if reference is None else torch.tensor(reference, dtype=torch.float64),
        None if desirable is None else torch.tensor(desirable),
    )


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_known_answers():
    # Log-ratios 2 and -1, so h = 0.1 * 3.
    moved = pairs((-3.0, -6.0), reference=[(-5.0, -5.0)], tokens=[(4.0, 2.0)])
    assert sigmoid_losses(moved, 0.1).item() == pytest.approx(-log_sigmoid(0.3))
    assert sigmoid_losses(moved, 0.1, 0.25).item() == pytest.approx(-0.75 * log_sigmoid(0.3) - 0.25 * log_sigmoid(-0.3))
    # By tokens 2 / 4 - (-1) / 2 = 1; 1 / (2 * 0.1) = 5.
    assert ipo_losses(moved, 0.1).item() == pytest.approx((1 - 5) ** 2)
    # By tokens -3 / 4 and -6 / 2.
    assert simpo_losses(moved, 2.0, 0.5).item() == pytest.approx(-log_sigmoid(2 * (-0.75 + 3) - 0.5))
    odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in (-0.75, -3.0)]
    assert orpo_losses(moved, 0.2).item() == pytest.approx(0.75 - 0.2 * log_sigmoid(math.log(odds[0] / odds[1])))
    # Others' responses moved by 0.5 and 1.5: z = 1. A desirable one by 3, an undesirable one by 2.
    single = pairs((3.0, 0.5), (2.0, 1.5), desirable=[True, False])
    expected = [1.2 * (1 - 1 / (1 + math.exp(-0.1 * 2))), 0.7 * (1 - 1 / (1 + math.exp(0.1 * 1)))]
    assert kto_losses(single, 0.1, 1.2, 0.7).tolist() == pytest.approx(expected)
    # Where others have become less likely, z is 0.
    held = pairs((3.0, -0.5), desirable=[True])
    assert kto_losses(held, 0.1).item() == pytest.approx(1 - 1 / (1 + math.exp(-0.3)))


def test_the_reference_itself_has_the_loss_of_a_coin():
    at_start = pairs((-3.0, -6.0), reference=[(-3.0, -6.0)], desirable=[True])
    assert sigmoid_losses(at_start, 0.3).item() == pytest.approx(math.log(2))
    assert kto_losses(at_start, 0.3).item() == 0.5
    assert ipo_losses(at_start, 0.5).item() == 1.0


@given(st.floats(0.01, 0.49), st.floats(0.05, 1.0))
def test_conservative_dpo_is_least_where_the_reward_says_how_sure_labels_are(wrong, beta):
    """Its minimum is at h = log((1 - e) / e), where it is the entropy of a label."""
    best = math.log((1 - wrong) / wrong) / beta
    around = pairs((best, 0.0), (best + 0.1, 0.0), (best - 0.1, 0.0))
    losses = sigmoid_losses(around, beta, wrong).tolist()
    assert losses[0] == pytest.approx(-wrong * math.log(wrong) - (1 - wrong) * math.log(1 - wrong))
    assert losses[0] < min(losses[1:])


@given(st.floats(-1e-7, -1e-12) | st.floats(-800.0, -1e-7), st.floats(-800.0, -1e-7))
def test_odds_have_finite_losses_and_gradients(chosen, rejected):
    policy = torch.tensor([[chosen, rejected]], dtype=torch.float64, requires_grad=True)
    loss = orpo_losses(Responses(policy, torch.ones(1, 2)), 0.1).sum()
    (gradient,) = torch.autograd.grad(loss, policy)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    # The chosen answer is to become more likely, the rejected one less.
    assert gradient[0, 0] < 0 <= gradient[0, 1]


def test_no_gradient_flows_to_the_estimate_of_the_divergence():
    policy = torch.tensor([[3.0, 0.5], [2.0, 1.5]], dtype=torch.float64, requires_grad=True)
    loss = kto_losses(Responses(policy, torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([True, False])), 0.1).sum()
    (gradient,) = torch.autograd.grad(loss, policy)
    assert gradient[:, 1].tolist() == [0, 0]
    assert gradient[0, 0] < 0 < gradient[1, 0]


def scores(loss: str, policy, reference, desirable=None, divergences=None) -> PreferenceScores:
    form = {"response": "r", "desirable": "d"} if desirable is not None else {"chosen": "c", "rejected": "r"}
    recipe = {"task": {"kind": "dpo", "loss": loss}, "data": {"source": "x.jsonl", "fields": {"prompt": "p", **form}}}
    shape = np.array(policy).shape
    return PreferenceScores(
        load_recipe(recipe).task,
        np.array(policy, dtype=float),
        np.array(reference, dtype=float),
        np.full(shape, 2.0),
        np.ones(shape) if divergences is None else np.array(divergences, dtype=float),
        None if desirable is None else np.array(desirable),
    )


def test_measures_of_pairs():
    # Log-ratios (2, -1), (0, 0), (-3, 1): right, a tie, wrong.
    found = scores("sigmoid", [(-3, -6), (-1, -2), (-7, -1)], [(-5, -5), (-1, -2), (-4, -2)]).measures()
    assert found["reward_accuracy"] == pytest.approx(0.5)
    assert found["chosen_reward"] == pytest.approx(0.1 * (2 + 0 - 3) / 3)
    assert found["rejected_reward"] == pytest.approx(0)
    assert found["reward_margin"] == pytest.approx(-0.1 / 3)
    assert found["kl"] == pytest.approx(0.5)
    assert found["loss"] == pytest.approx(-(log_sigmoid(0.3) + log_sigmoid(0) + log_sigmoid(-0.4)) / 3)


def test_rewards_without_a_reference_are_of_the_policy_alone():
    found = scores("simpo", [(-3, -6)], [(-5, -5)]).measures()
    assert (found["chosen_reward"], found["rejected_reward"]) == (-3.0, -6.0)
    assert found["reward_accuracy"] == 1.0


def test_measures_of_single_responses():
    """Signs of rewards, and the divergence over an example's own response."""
    found = scores(
        "kto", [(-3, 0), (-6, 0), (-1, 0)], [(-5, 0), (-5, 0), (-4, 0)], [True, False, False],
        divergences=[(1, 9), (2, 9), (3, 9)],
    ).measures()  # fmt: skip
    assert found["reward_accuracy"] == pytest.approx(2 / 3)
    assert found["chosen_reward"] == pytest.approx(0.2)
    assert found["rejected_reward"] == pytest.approx(0.1 * (-1 + 3) / 2)
    assert found["reward_margin"] == pytest.approx(0.1)
    assert found["kl"] == pytest.approx(1.0)


def test_clients_without_undesirable_responses_count_where_they_can():
    summary = ScoreSummary(exact_match=False)
    summary.add(scores("kto", [(-3, 0)], [(-5, 0)], [True]))
    summary.add(scores("kto", [(-3, 0), (-6, 0)], [(-4, 0), (-5, 0)], [True, False]))
    assert "reward_margin" not in summary.single(0)
    assert summary.single(1)["reward_margin"] == pytest.approx(0.1 + 0.1)
    block = summary.mean()
    assert block["chosen_reward"] == pytest.approx((0.2 + 0.1) / 2)
    assert block["reward_margin"] == pytest.approx(0.2)
    assert block["examples"] == 3
    assert "reward_margin" in summary.quantiles()
