"""The output head and its loss in chunks of rows: never a logit for every token and every word of the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.model.attention_layout import AttentionLayout

# Rows whose logits are held at a time: enough for the product with the head to be worth the reading of its weights.
ROWS = 256
PROBE_TOKENS = 16


class _LabelLosses(torch.autograd.Function):
    """Cross-entropy of each row; the gradient of a row's loss is computed on the way, while its logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(labels), device=hidden.device)
        predicted = torch.zeros(len(labels), dtype=torch.int64, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        for first in range(0, len(labels), ROWS):
            place = slice(first, first + ROWS)
            label = labels[place, None]
            logits = nn.functional.linear(hidden[place], weight, bias)
            highest = logits.amax(-1, keepdim=True)
            at_label = logits.gather(-1, label)
            if gradient is None:
                predicted[place] = logits.argmax(-1)
            weights = torch.softmax(logits, -1, dtype=torch.float32)
            # -log softmax, without an exponential that could vanish: the largest weight is at least 1 / vocabulary.
            losses[place] = (highest.float() - at_label.float() - weights.amax(-1, keepdim=True).log())[:, 0]
            if gradient is not None:
                weights.scatter_add_(-1, label, weights.new_full(label.shape, -1.0))
                torch.mm(weights.to(hidden.dtype), weight, out=gradient[place])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(predicted)
        return losses, predicted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None, None


def label_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None) -> Tensor:
    """Cross-entropy of each label under the frozen output head, in memory that does not grow with labels * vocabulary.

    Args:
        hidden: [labels, size], what the head is applied to.
        weight: [vocabulary, size], frozen.
        labels: int64 [labels].
        bias: [vocabulary], frozen.

    Returns:
        fp32 [labels], in nats; differentiable with respect to `hidden`.
    """
    losses: Tensor = _LabelLosses.apply(hidden, weight, bias, labels)[0]  # type: ignore[no-untyped-call]
    return losses


@torch.no_grad()
def label_scores(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `label_cross_entropy`, and the most likely token of each row.

    Args:
        hidden: [labels, size].
        weight: [vocabulary, size].
        labels: int64 [labels].
        bias: [vocabulary].

    Returns:
        fp32 [labels] in nats, and int64 [labels].
    """
    scores: tuple[Tensor, Tensor] = _LabelLosses.apply(hidden.detach(), weight, bias, labels)  # type: ignore[no-untyped-call]
    return scores


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether a model's logits are its output head applied to its last hidden states, and nothing more.

    Some models scale or cap their logits; they are asked for logits as a whole. Found out by trying, not by a list.

    Args:
        model: the base model, before its layers are wrapped.

    Returns:
        Whether `label_cross_entropy` may take the place of the model's own head.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    place = torch.arange(PROBE_TOKENS, device=model.device)
    arguments = {
        "input_ids": place[None] % head.out_features,
        "position_ids": place[None],
        "packed_layout": AttentionLayout(np.array([PROBE_TOKENS]), device=model.device),
        "use_cache": False,
    }
    expected = model(**arguments).logits
    return torch.equal(head(model.base_model(**arguments).last_hidden_state), expected)
