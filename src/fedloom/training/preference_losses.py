"""Losses of alignment: functions from the log-probabilities of whole responses to a loss for each example.

An example has two responses to its prompt. Of a pair they are the chosen and the rejected one. KTO's examples have one
response each; the second is then that of another example, which estimates how far the policy has moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedloom.recipe.preference_schema import REFERENCE_FREE, PreferenceOptions


@dataclass(frozen=True)
class Responses:
    """What a model, and the model that training started from, make of the responses of n examples.

    Args:
        policy: fp64 [n, 2], sums over a response's tokens of their log-probabilities under the model in training.
        tokens: fp64 [n, 2], how many tokens these are.
        reference: fp64 [n, 2], as `policy`, under the model that training started from; None for losses without one.
        desirable: bool [n], whether the first response is to become more likely; None of pairs.
    """

    policy: Tensor
    tokens: Tensor
    reference: Tensor | None = None
    desirable: Tensor | None = None

    @property
    def log_ratios(self) -> Tensor:
        """fp64 [n, 2], log of how much likelier the responses have become since training started."""
        assert self.reference is not None
        return self.policy - self.reference

    @property
    def means(self) -> Tensor:
        """fp64 [n, 2], the mean log-probability of a token of each response."""
        return self.policy / self.tokens


def preference_losses(options: PreferenceOptions, responses: Responses) -> Tensor:
    """The loss that a recipe names.

    Args:
        options: the recipe's task.
        responses: of n examples of one client.

    Returns:
        fp64 [n].
    """
    beta = _given(options.beta)
    if options.loss == "ipo":
        return ipo_losses(responses, beta)
    if options.loss == "kto":
        return kto_losses(responses, beta, _given(options.desirable_weight), _given(options.undesirable_weight))
    if options.loss == "orpo":
        return orpo_losses(responses, beta)
    if options.loss == "simpo":
        return simpo_losses(responses, beta, _given(options.margin))
    return sigmoid_losses(responses, beta, _given(options.label_smoothing))


def rewards(options: PreferenceOptions, responses: Responses) -> Tensor:
    """What the losses take for the rewards of responses: those that they pull apart.

    Args:
        options: the recipe's task.
        responses: of n examples.

    Returns:
        fp64 [n, 2]: beta times the log-ratio, or, of losses without a reference, beta times the mean log-probability.
    """
    free = options.loss in REFERENCE_FREE
    return _given(options.beta) * (responses.means if free else responses.log_ratios)


def sigmoid_losses(responses: Responses, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation (arXiv 2305.18290, equation 7), conservative with label smoothing.

    With h = beta * (log-ratio of the chosen - log-ratio of the rejected response):
    -(1 - e) log sigmoid(h) - e log sigmoid(-h), where e is the share of labels that are taken to be wrong (Mitchell's
    note on conservative DPO; e = 0 is the paper's equation).

    Args:
        responses: of pairs.
        beta: how strongly the policy is held to the reference.
        label_smoothing: e, at least 0 and below 0.5.

    Returns:
        fp64 [n].
    """
    chosen, rejected = responses.log_ratios.unbind(1)
    reward = beta * (chosen - rejected)
    losses = -functional.logsigmoid(reward)
    if not label_smoothing:
        return losses
    return (1 - label_smoothing) * losses - label_smoothing * functional.logsigmoid(-reward)


def ipo_losses(responses: Responses, beta: float) -> Tensor:
    """Identity preference optimisation (arXiv 2310.12036, equation 17): (h - 1 / (2 beta))^2.

    h is the difference of the responses' log-ratios, each divided by its number of tokens. The paper's h is of sums;
    the division is TRL's, said there to be agreed with the paper's authors: otherwise the loss grows with lengths.

    Args:
        responses: of pairs.
        beta: the paper's tau.

    Returns:
        fp64 [n].
    """
    chosen, rejected = (responses.log_ratios / responses.tokens).unbind(1)
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kto_losses(
    responses: Responses, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Tensor:
    """Kahneman-Tversky optimisation (arXiv 2402.01306, equation 8), without the constant lambda_y as TRL has it.

    With r the log-ratio of an example's own response: w (1 - sigmoid(beta (r - z))) where it is desirable, else
    w (1 - sigmoid(beta (z - r))). z, to which no gradient flows, estimates the divergence of the policy from the
    reference by responses that belong to other prompts: their mean log-ratio, at least 0.

    Args:
        responses: of single examples, the second response that of another one.
        beta: how strongly the policy is held to the reference.
        desirable_weight: w of the desirable examples, lambda_D.
        undesirable_weight: w of the others, lambda_U.

    Returns:
        fp64 [n].
    """
    assert responses.desirable is not None
    own, others = responses.log_ratios.unbind(1)
    distance = divergence(others.detach())
    losses = 1 - torch.sigmoid(beta * torch.where(responses.desirable, own - distance, distance - own))
    return losses * torch.where(responses.desirable, desirable_weight, undesirable_weight)


def divergence(log_ratios: Tensor) -> Tensor:
    """KTO's estimate of the Kullback-Leibler divergence of the policy from the reference (arXiv 2402.01306, 4.1).

    Args:
        log_ratios: fp64 [n], of responses under prompts that they do not belong to.

    Returns:
        A scalar in nats, not negative.
    """
    return log_ratios.mean().clamp(min=0)


def orpo_losses(responses: Responses, beta: float) -> Tensor:
    """Odds ratio preference optimisation (arXiv 2403.07691, equations 6 and 7), which has no reference.

    With p a response's mean token probability, exp(mean log-probability), and odds p / (1 - p):
    -log p(chosen) - beta * log sigmoid(log(odds(chosen) / odds(rejected))).

    The first term is the chosen response's mean cross-entropy, pair by pair, as the paper has it. (TRL takes the
    prompt's tokens into it, and the mean over all tokens of a batch.)

    Args:
        responses: of pairs.
        beta: the paper's lambda.

    Returns:
        fp64 [n].
    """
    chosen, rejected = responses.means.unbind(1)
    log_odds = chosen - rejected - (_log_complement(chosen) - _log_complement(rejected))
    return -chosen - beta * functional.logsigmoid(log_odds)


def simpo_losses(responses: Responses, beta: float, margin: float) -> Tensor:
    """Simple preference optimisation (arXiv 2405.14734, equation 6), which has no reference.

    -log sigmoid(beta * (mean log-probability of the chosen - that of the rejected response) - margin).

    Args:
        responses: of pairs.
        beta: scale of the rewards.
        margin: gamma, by how much the chosen response's reward is to exceed the other's.

    Returns:
        fp64 [n].
    """
    chosen, rejected = responses.means.unbind(1)
    return -functional.logsigmoid(beta * (chosen - rejected) - margin)


def _log_complement(log_probabilities: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact near 0, where a probability is almost 1, and far from it."""
    near = log_probabilities > -torch.log(torch.tensor(2.0, dtype=log_probabilities.dtype))
    # In the branch not taken, a value at which the gradient is finite.
    close = torch.log(-torch.expm1(torch.where(near, log_probabilities, -0.5)))
    return torch.where(near, close, torch.log1p(-torch.exp(torch.where(near, -1.0, log_probabilities))))


def _given(option: float | None) -> float:
    """An option that the recipe's loss has, so that it is never None."""
    assert option is not None
    return option
