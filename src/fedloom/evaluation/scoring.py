"""Scores of examples under adapters: several adapters over one base in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.forward import score_labels
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.lanes import Lanes
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


# Of a pass: the job and the example's place in it.
Place = tuple[int, int]


def score(
    model: PreTrainedModel,
    lora: GroupedLora,
    lanes: Lanes,
    adapters: Sequence[Mapping[str, Tensor]],
    jobs: Sequence[tuple[int, ExampleSet]],
) -> list[Scores]:
    """Score example sets, each under one of several adapters.

    Args:
        model: the frozen base.
        lora: its grouped adapters.
        lanes: in which passes run side by side.
        adapters: fp32 tensors under PEFT's names.
        jobs: (index of the adapter, examples) pairs, sorted by adapter.

    Returns:
        One `Scores` for each job.
    """
    results = [
        Scores(np.zeros(len(s)), np.zeros(len(s), dtype=np.int64), np.zeros(len(s), dtype=bool)) for _, s in jobs
    ]
    passes = _passes(jobs)

    def score_places(places: Sequence[Place]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _score_pass(model, lora, adapters, jobs, places)

    scored = lanes.map(score_places, passes, alone=len(passes) == 1)
    for places, (losses, labels, correct) in zip(passes, scored, strict=True):
        for place, (job, index) in enumerate(places):
            results[job].losses[index] = losses[place]
            results[job].labels[index] = labels[place]
            results[job].correct[index] = correct[place]
    return results


def _passes(jobs: Sequence[tuple[int, ExampleSet]]) -> list[list[Place]]:
    passes: list[list[Place]] = []
    tokens = TOKENS_PER_PASS
    for job, (_, examples) in enumerate(jobs):
        for index, length in enumerate(examples.lengths.tolist()):
            if tokens + length > TOKENS_PER_PASS:
                passes.append([])
                tokens = 0
            passes[-1].append((job, index))
            tokens += length
    return passes


@torch.no_grad()
def _score_pass(
    model: PreTrainedModel,
    lora: GroupedLora,
    adapters: Sequence[Mapping[str, Tensor]],
    jobs: Sequence[tuple[int, ExampleSet]],
    places: Sequence[Place],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss sum, number of labels, and whether all are right, of each example of a pass."""
    groups: dict[int, list[Example]] = {}
    for job, index in places:
        adapter, examples = jobs[job]
        groups.setdefault(adapter, []).append(Example(examples.tokens(index), examples.trained(index)))
    lora.load([adapters[adapter] for adapter in groups], trainable=False)
    batch = pack(list(groups.values()), lora.device)
    label_losses, label_correct = score_labels(model, lora, batch)
    losses, wrong = label_losses.double().cpu().numpy(), ~label_correct.cpu().numpy()
    owners = batch.label_examples.cpu().numpy()
    loss_sums = np.bincount(owners, losses, len(places))
    counts = np.bincount(owners, minlength=len(places))
    return loss_sums, counts, np.bincount(owners, wrong, len(places)) == 0
