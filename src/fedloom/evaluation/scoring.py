"""Scores of examples under adapters: several adapters over one base in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.forward import label_logits, label_losses
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.packing import Example, pack

TOKENS_PER_PASS = 8192


@dataclass(frozen=True)
class Scores:
    """Per-example scores of one example set.

    Args:
        losses: fp64 [examples], sum of the cross-entropies of an example's labels, nats.
        labels: int64 [examples], number of its labels.
        correct: bool [examples], whether greedy decoding would give exactly the reference answer: the most likely
            token at every labelled position is the label, which by induction over the answer is the same thing.
    """

    losses: np.ndarray
    labels: np.ndarray
    correct: np.ndarray

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a label, nats."""
        return float(self.losses.sum() / self.labels.sum())

    @property
    def accuracy(self) -> float:
        """Share of examples answered exactly."""
        return float(self.correct.mean())


@torch.no_grad()
def score(model: PreTrainedModel, lora: GroupedLora, jobs: Sequence[tuple[int, ExampleSet]]) -> list[Scores]:
    """Score example sets, each under one of the loaded adapters.

    Args:
        model: the frozen base.
        lora: holds the adapters.
        jobs: (group, examples) pairs, sorted by group.

    Returns:
        One `Scores` for each job.
    """
    results = [
        Scores(np.zeros(len(s)), np.zeros(len(s), dtype=np.int64), np.zeros(len(s), dtype=bool)) for _, s in jobs
    ]
    queue: list[tuple[int, int]] = []
    tokens = 0
    for job, (_, examples) in enumerate(jobs):
        lengths = examples.lengths
        for index in range(len(examples)):
            if queue and tokens + int(lengths[index]) > TOKENS_PER_PASS:
                _score_pass(model, lora, jobs, queue, results)
                queue, tokens = [], 0
            queue.append((job, index))
            tokens += int(lengths[index])
    if queue:
        _score_pass(model, lora, jobs, queue, results)
    return results


def _score_pass(
    model: PreTrainedModel,
    lora: GroupedLora,
    jobs: Sequence[tuple[int, ExampleSet]],
    queue: Sequence[tuple[int, int]],
    results: Sequence[Scores],
) -> None:
    groups: list[list[Example]] = [[] for _ in range(len(lora.values))]
    for job, index in queue:
        group, examples = jobs[job]
        groups[group].append(Example(examples.tokens(index), examples.trained(index)))
    batch = pack(groups, lora.device)
    logits = label_logits(model, lora, batch)
    losses = label_losses(logits, batch.labels).double().cpu().numpy()
    wrong = (logits.argmax(-1) != batch.labels).cpu().numpy()
    sequences = batch.label_sequences.cpu().numpy()
    loss_sums = np.bincount(sequences, losses, len(queue))
    counts = np.bincount(sequences, minlength=len(queue))
    mistakes = np.bincount(sequences, wrong, len(queue))
    for place, (job, index) in enumerate(queue):
        results[job].losses[index] = loss_sums[place]
        results[job].labels[index] = counts[place]
        results[job].correct[index] = mistakes[place] == 0
