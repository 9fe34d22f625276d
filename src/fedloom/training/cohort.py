"""Training a cohort: K clients' adapters in one pass over the frozen base, each exactly as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.errors import UserError
from fedloom.model.forward import label_losses
from fedloom.model.grouped_lora import Adapter, GroupedLora
from fedloom.model.packing import Example, pack
from fedloom.training.optimizers import Optimizer, OptimizerState, clip_gradient

# A longer pass gains nothing on a CPU: products are large enough, and activations leave the caches.
CPU_TOKENS = 4096


@dataclass(frozen=True)
class ClientWork:
    """What one client of a cohort has to do.

    Args:
        client: its name.
        examples: its training examples.
        batches: indices into them, one array for each step.
        adapter: where it starts.
        optimizer_state: moments of an earlier round, one vector for each name; None: fresh.
    """

    client: str
    examples: ExampleSet
    batches: list[np.ndarray]
    adapter: Adapter
    optimizer_state: OptimizerState | None = None


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
    """

    client: str
    adapter: Adapter
    optimizer_state: OptimizerState
    loss: float
    tokens: int
    label_tokens: int
    steps: int


class TrainingDiverged(UserError):
    """A client's loss stopped being a number."""


def train_cohort(
    model: PreTrainedModel,
    lora: GroupedLora,
    work: Sequence[ClientWork],
    optimizer: Optimizer,
    rate: float,
    max_gradient_norm: float | None,
    round_number: int,
) -> list[ClientResult]:
    """Train the clients side by side, with their own losses, clipping, moments and numbers of steps.

    Args:
        model: the frozen base.
        lora: where the adapters train.
        work: one entry for each client, any order.
        optimizer: the local optimiser.
        rate: the learning rate.
        max_gradient_norm: each client's gradient is clipped to it; None: never.
        round_number: for messages.

    Returns:
        One result for each client, in the order of `work`.

    Raises:
        TrainingDiverged: naming the client and the round, where a loss is not finite.
    """
    # Longest first: the clients still at work are then always the first rows, and a step works on plain slices.
    order = sorted(range(len(work)), key=lambda i: -len(work[i].batches))
    clients = [work[i] for i in order]
    lora.load([client.adapter for client in clients])
    states = [
        optimizer.init(values) if client.optimizer_state is None else _moved(client.optimizer_state, values)
        for client, values in zip(clients, lora.values, strict=True)
    ]
    loss_sums = torch.zeros(len(clients), dtype=torch.float64, device=lora.device)
    tokens = np.zeros(len(clients), dtype=np.int64)
    label_tokens = np.zeros(len(clients), dtype=np.int64)
    for step in range(len(clients[0].batches)):
        active = sum(len(client.batches) > step for client in clients)
        losses, step_labels = _step_gradients(model, lora, [_examples(client, step) for client in clients[:active]])
        for values, gradients, state in zip(lora.values, lora.gradients[:active], states, strict=False):
            if max_gradient_norm is not None:
                clip_gradient(gradients, max_gradient_norm)
            optimizer.update(values, gradients, state, rate)
        loss_sums[:active] += losses
        label_tokens[:active] += step_labels
        for row, client in enumerate(clients[:active]):
            tokens[row] += client.examples.lengths[client.batches[step]].sum()
    results: dict[int, ClientResult] = {}
    for row, (position, client) in enumerate(zip(order, clients, strict=True)):
        loss = float(loss_sums[row]) / len(client.batches)
        if not np.isfinite(loss) or not bool(torch.isfinite(lora.values[row]).all()):
            raise TrainingDiverged(
                f"round {round_number}: the loss of client {client.client!r} is not a finite number",
                hint="lower local.learning_rate; the last good checkpoint is kept",
            )
        results[position] = ClientResult(
            client.client,
            lora.unflatten(lora.values[row]),
            {name: value.cpu() for name, value in states[row].items()},
            loss,
            int(tokens[row]),
            int(label_tokens[row]),
            len(client.batches),
        )
    return [results[position] for position in range(len(work))]


def _examples(client: ClientWork, step: int) -> list[Example]:
    examples = client.examples
    return [Example(examples.tokens(i), examples.trained(i), examples.key(i)) for i in map(int, client.batches[step])]


def _step_gradients(
    model: PreTrainedModel, lora: GroupedLora, groups: Sequence[Sequence[Example]]
) -> tuple[Tensor, np.ndarray]:
    """Fill the gradients of one step; returns each group's mean loss, fp64 [groups], and its labels, int64 [groups]."""
    sums = torch.zeros(len(groups), dtype=torch.float64, device=lora.device)
    labels = np.zeros(len(groups), dtype=np.int64)
    lora.gradients.zero_()
    for members in _passes(groups, lora.device):
        batch = pack([group if place in members else [] for place, group in enumerate(groups)], lora.device)
        losses = label_losses(model, lora, batch)
        counts = batch.label_counts.to(losses.dtype)
        # The sum over groups of each group's own mean: no group's gradient depends on another's labels.
        lora.add_gradients((losses / counts[batch.label_groups]).sum())
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


def _moved(state: OptimizerState, like: Tensor) -> OptimizerState:
    # A copy: the optimiser works in place, and a client's work description is not to change.
    return {name: value.to(like.device, copy=True) for name, value in state.items()}
