"""Training a cohort: K clients' adapters in one pass over the frozen base, each exactly as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation.client_rule import ClientFinish
from fedloom.errors import Diverged
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.packing import Example
from fedloom.model.pruned_pass import PrunedPass, by_masks, by_slices, leaving_out
from fedloom.training.client import ClientWork, LocalClient, LocalTraining, Omission
from fedloom.training.optimizers import OptimizerState

# A longer pass gains nothing on a CPU: products are large enough, and activations leave the caches.
CPU_TOKENS = 4096


@dataclass(frozen=True)
class ClientResult:
    """What a client's round came to.

    Args:
        client: its name.
        adapter: where it arrived, fp32 on the CPU.
        optimizer_state: its moments, one vector for each name.
        loss: mean over steps of the mean loss of its labels, in nats.
        tokens: tokens trained on, none of them padding.
        label_tokens: those of them that carried a label.
        steps: optimiser steps taken.
        finish: what its algorithm keeps, sends and reports.
    """

    client: str
    adapter: Adapter
    optimizer_state: OptimizerState
    loss: float
    tokens: int
    label_tokens: int
    steps: int
    finish: ClientFinish


def train_cohort(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], work: Sequence[ClientWork], training: LocalTraining
) -> list[ClientResult]:
    """Train the clients side by side, with their own losses, clipping, moments and numbers of steps.

    Args:
        model: the frozen base.
        grouped: where the adapters train.
        work: one entry for each client, any order; of those that train over smaller weights, one alone.
        training: how they train.

    Returns:
        One result for each client, in the order of `work`.

    Raises:
        Diverged: naming the client and the round, where a loss is not finite.
    """
    # Longest first: the clients still at work are then always the first rows, and a step works on plain slices.
    order = sorted(range(len(work)), key=lambda i: -len(work[i].batches))
    ordered = [work[i] for i in order]
    with leaving_out(grouped, _pruned([client.omission for client in ordered], grouped.device)):
        results = _train_ordered(model, grouped, ordered, training)
    return [result for _, result in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]


def _pruned(omissions: Sequence[Omission | None], device: torch.device) -> PrunedPass | None:
    """What the passes of some clients leave out of the base."""
    given = [omission for omission in omissions if omission is not None]
    if not given:
        return None
    blocks, kept = given[0].blocks, given[0].kept.to(device)
    if given[0].sliced:
        assert len(omissions) == 1
        return by_slices(blocks, kept)
    masks = torch.stack([torch.ones_like(kept) if one is None else one.kept.to(device) for one in omissions])
    return by_masks(blocks, masks.float())


def _train_ordered(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], ordered: Sequence[ClientWork], training: LocalTraining
) -> list[ClientResult]:
    """The same for clients in the order of their steps, the most first."""
    grouped.load([client.adapter for client in ordered])
    full = [_full_gradient(model, grouped, row, client) for row, client in enumerate(ordered)]
    clients = [LocalClient(client, grouped, row, training, full[row]) for row, client in enumerate(ordered)]
    loss_sums = torch.zeros(len(clients), dtype=torch.float64, device=grouped.device)
    tokens = np.zeros(len(clients), dtype=np.int64)
    label_tokens = np.zeros(len(clients), dtype=np.int64)
    for step in range(len(ordered[0].batches)):
        active = sum(len(client.batches) > step for client in ordered)
        groups = [examples_at(client.examples, client.batches[step]) for client in ordered[:active]]
        losses, step_labels = _step_gradients(model, grouped, groups)
        for client in clients[:active]:
            client.step()
        loss_sums[:active] += losses
        label_tokens[:active] += step_labels
        for row, client_work in enumerate(ordered[:active]):
            tokens[row] += client_work.examples.lengths[client_work.batches[step]].sum()
    results: list[ClientResult] = []
    for row, client in enumerate(clients):
        steps = len(client.work.batches)
        loss = float(loss_sums[row]) / steps
        if not np.isfinite(loss) or not client.is_finite():
            raise Diverged(
                f"round {training.round_number}: the loss of client {client.work.client!r} is not a finite number",
                hint="lower local.learning_rate; the last good checkpoint is kept",
            )
        adapter, finish = client.finish()
        results.append(
            ClientResult(
                client.work.client,
                adapter,
                client.state(),
                loss,
                int(tokens[row]),
                int(label_tokens[row]),
                steps,
                finish,
            )
        )
    return results


def _full_gradient(model: PreTrainedModel, grouped: GroupedAdapter[Any], row: int, client: ClientWork) -> Tensor | None:
    """The gradient of the mean loss of all of a client's labels at its start, where its algorithm asks for it."""
    if not client.rule.full_gradient:
        return None
    total, labels = torch.zeros_like(grouped.gradients[row]), 0
    size = max(len(batch) for batch in client.batches)
    for first in range(0, len(client.examples), size):
        batch = np.arange(first, min(first + size, len(client.examples)))
        groups: list[list[Example]] = [[] for _ in range(row)] + [examples_at(client.examples, batch)]
        _, counts = _step_gradients(model, grouped, groups)
        total.add_(grouped.gradients[row], alpha=float(counts[row]))
        labels += int(counts[row])
    return total.div_(labels)


def _step_gradients(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], groups: Sequence[Sequence[Example]]
) -> tuple[Tensor, np.ndarray]:
    """Fill the gradients of one step; returns each group's mean loss, fp64 [groups], and its labels, int64 [groups]."""
    sums = torch.zeros(len(groups), dtype=torch.float64, device=grouped.device)
    labels = np.zeros(len(groups), dtype=np.int64)
    grouped.gradients.zero_()
    for members in _passes(groups, grouped.device):
        present = [group if place in members else [] for place, group in enumerate(groups)]
        batch = pack_groups(grouped, present)
        losses = label_losses(model, grouped, batch)
        counts = batch.label_counts.to(losses.dtype)
        # The sum over groups of each group's own mean: no group's gradient depends on another's labels.
        grouped.add_gradients((losses / counts[batch.label_groups]).sum())
        sums.index_add_(0, batch.label_groups, losses.detach().double())
        labels += batch.label_counts.cpu().numpy()
    return sums / torch.from_numpy(labels).to(sums), labels


def _passes(groups: Sequence[Sequence[Example]], device: torch.device) -> list[range]:
    """Cut the groups of a step into passes, on a CPU of a length at which activations stay in the caches."""
    passes = [range(0, 0)]
    tokens = 0
    for place, group in enumerate(groups):
        size = sum(len(example.tokens) for example in group)
        if device.type == "cpu" and len(passes[-1]) and tokens + size > CPU_TOKENS:
            passes.append(range(place, place))
            tokens = 0
        passes[-1] = range(passes[-1].start, place + 1)
        tokens += size
    return passes
