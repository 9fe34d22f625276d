"""Training a cohort: K clients' adapters in one pass over the frozen base, each exactly as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation.client_rule import ClientFinish
from fedloom.errors import Diverged
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.pruned_pass import PrunedPass, by_masks, by_slices, leaving_out
from fedloom.training.client import ClientWork, LocalClient, LocalTraining, Omission
from fedloom.training.fisher import gradients_held
from fedloom.training.objectives import ClientBatch, LabelObjective, Objective
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
        loss: mean over steps of the mean loss of its labels, in nats, or of its preferences.
        tokens: tokens trained on, none of them padding.
        label_tokens: those of them that carried a label.
        steps: optimiser steps taken.
        finish: what its algorithm keeps, sends and reports.
        fisher: fp32 [parameters], the diagonal of the empirical Fisher information of its adapter before the last step,
            on the examples of that step; None where nobody asks.
    """

    client: str
    adapter: Adapter
    optimizer_state: OptimizerState
    loss: float
    tokens: int
    label_tokens: int
    steps: int
    finish: ClientFinish
    fisher: Tensor | None = None


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
    objective = training.objective
    full = [_full_gradient(model, grouped, row, client, objective) for row, client in enumerate(ordered)]
    clients = [LocalClient(client, grouped, row, training, full[row]) for row, client in enumerate(ordered)]
    loss_sums = torch.zeros(len(clients), dtype=torch.float64, device=grouped.device)
    tokens = np.zeros(len(clients), dtype=np.int64)
    label_tokens = np.zeros(len(clients), dtype=np.int64)
    fisher: dict[int, Tensor] = {}
    for step in range(len(ordered[0].batches)):
        active = sum(len(client.batches) > step for client in ordered)
        batches = [objective.batch(client.examples, client.batches[step]) for client in ordered[:active]]
        last = [row for row in range(active) if ordered[row].fisher and len(ordered[row].batches) == step + 1]
        if last:
            losses, measured = _gradients_and_fisher(model, grouped, batches, last)
            fisher |= measured
        else:
            losses, _ = _step_gradients(model, grouped, batches, objective)
        for client in clients[:active]:
            client.step()
        loss_sums[:active] += losses
        for row, client_work in enumerate(ordered[:active]):
            tokens[row] += client_work.examples.lengths[client_work.batches[step]].sum()
            label_tokens[row] += client_work.examples.label_counts[client_work.batches[step]].sum()
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
                fisher.get(row),
            )
        )
    return results


def _full_gradient(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], row: int, client: ClientWork, objective: Objective
) -> Tensor | None:
    """The gradient of the mean loss of all of a client's data at its start, where its algorithm asks for it."""
    if not client.rule.full_gradient:
        return None
    total, losses = torch.zeros_like(grouped.gradients[row]), 0
    size = max(len(batch) for batch in client.batches)
    for first in range(0, len(client.examples), size):
        batch = np.arange(first, min(first + size, len(client.examples)))
        batches = [ClientBatch([]) for _ in range(row)] + [objective.batch(client.examples, batch)]
        _, counts = _step_gradients(model, grouped, batches, objective)
        total.add_(grouped.gradients[row], alpha=float(counts[row]))
        losses += int(counts[row])
    return total.div_(losses)


def _step_gradients(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], batches: Sequence[ClientBatch], objective: Objective
) -> tuple[Tensor, np.ndarray]:
    """Fill the gradients of one step; returns each group's mean loss, fp64 [groups], and what it is of, int64."""
    sums, counts = _fill_gradients(model, grouped, batches, objective)
    return sums / torch.from_numpy(counts).to(sums), counts


def _fill_gradients(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], batches: Sequence[ClientBatch], objective: Objective
) -> tuple[Tensor, np.ndarray]:
    """Fill the gradients of one step; returns each group's losses added up, fp64 [groups], and how many, int64."""
    sums = torch.zeros(len(batches), dtype=torch.float64, device=grouped.device)
    counts = np.zeros(len(batches), dtype=np.int64)
    grouped.gradients.zero_()
    for members in _passes(batches, grouped.device):
        present = [batch if place in members else ClientBatch([]) for place, batch in enumerate(batches)]
        packed = pack_groups(grouped, [batch.examples for batch in present])
        found = objective.loss(label_losses(model, grouped, packed), packed, present)
        grouped.add_gradients(found.total)
        sums += found.sums
        counts += found.counts
    return sums, counts


def _gradients_and_fisher(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], batches: Sequence[ClientBatch], measured: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Fill the gradients of one step of label losses, those of some clients out of each of their examples' gradients.

    Of these the squares are wanted, too, and no pass of their own is needed for them.

    Args:
        model: the frozen base.
        grouped: the adapters of the clients.
        batches: of each client.
        measured: those whose examples are groups of their own.

    Returns:
        Each client's mean loss, fp64 [clients], and of those measured the mean of the squares of the gradients of their
        examples' mean losses, fp32 [parameters].
    """
    parts: list[tuple[int, ClientBatch]] = []
    for row, batch in enumerate(batches):
        apart = [ClientBatch([example]) for example in batch.examples] if row in measured else [batch]
        parts += [(row, part) for part in apart]
    gradients = torch.zeros_like(grouped.gradients)
    squares = {row: torch.zeros_like(gradients[row]) for row in measured}
    losses = torch.zeros(len(batches), dtype=torch.float64, device=grouped.device)
    labels = np.zeros(len(batches), dtype=np.int64)
    most = gradients_held(grouped)
    for first in range(0, len(parts), most):
        rows, groups = zip(*parts[first : first + most], strict=True)
        with _spread(grouped, rows):
            sums, counts = _fill_gradients(model, grouped, groups, LabelObjective())
            for place, row in enumerate(rows):
                losses[row] += sums[place]
                labels[row] += counts[place]
                gradient = grouped.gradients[place]
                if row in squares:
                    squares[row].addcmul_(gradient, gradient)
                    gradient = gradient * float(counts[place])
                gradients[row] += gradient
    grouped.gradients.copy_(gradients)
    for row in measured:
        grouped.gradients[row] /= float(labels[row])
    means = {row: total / len(batches[row].examples) for row, total in squares.items()}
    return losses / torch.from_numpy(labels).to(losses), means


@contextmanager
def _spread(grouped: GroupedAdapter[Any], rows: Sequence[int]) -> Iterator[None]:
    """Give parts of batches groups, and so gradients, of their own, each with the adapter of its client's row."""
    if list(rows) == list(range(len(grouped.values))):
        yield
        return
    adapters = [{name: view[row] for name, view in grouped.split(grouped.values).items()} for row in rows]
    with grouped.borrowed(grouped.loaded()):
        grouped.load(adapters)
        yield


def _passes(batches: Sequence[ClientBatch], device: torch.device) -> list[range]:
    """Cut the groups of a step into passes, on a CPU of a length at which activations stay in the caches."""
    passes = [range(0, 0)]
    tokens = 0
    for place, batch in enumerate(batches):
        size = sum(len(example.tokens) for example in batch.examples)
        if device.type == "cpu" and len(passes[-1]) and tokens + size > CPU_TOKENS:
            passes.append(range(place, place))
            tokens = 0
        passes[-1] = range(passes[-1].start, place + 1)
        tokens += size
    return passes
