"""Scores of examples under adapters: several adapters over one base in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.evaluation.passes import Place, in_passes
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import pack_groups, score_labels
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.packing import Example


@dataclass(frozen=True)
class Scores:
    """Per-example scores of one example set.

    Args:
        losses: fp64 [examples], sum of the cross-entropies of an example's labels, nats.
        labels: int64 [examples], number of its labels.
        correct: bool [examples], whether greedy decoding would give exactly the reference answer: the most likely
            token at every labelled position is the label, which by induction over the answer is the same thing. Of
            classification, whether the most likely class is the true one.
        predicted: int64 [examples], the most likely class; None for other tasks than classification.
        classes: int64 [examples], the true class; None for other tasks.
    """

    losses: np.ndarray
    labels: np.ndarray
    correct: np.ndarray
    predicted: np.ndarray | None = None
    classes: np.ndarray | None = None

    @classmethod
    def of(cls, examples: ExampleSet) -> Scores:
        """The scores of examples before any is known."""
        size, classes = len(examples), examples.labels
        losses, labels, correct = np.zeros(size), np.zeros(size, dtype=np.int64), np.zeros(size, dtype=bool)
        predicted = None if classes is None else np.zeros(size, dtype=np.int64)
        return cls(losses, labels, correct, predicted, classes)

    def __len__(self) -> int:
        return len(self.losses)

    def write(self, index: int, found: Sequence[Any]) -> None:
        """Write what was found of one example: loss, labels, whether right and, of classification, the class."""
        self.losses[index], self.labels[index], self.correct[index] = found[:3]
        if self.predicted is not None:
            self.predicted[index] = found[3]

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a label, nats."""
        return float(self.losses.sum() / self.labels.sum())

    @property
    def accuracy(self) -> float:
        """Share of examples answered exactly."""
        return float(self.correct.mean())


def score(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    lanes: Lanes,
    adapters: Sequence[Mapping[str, Tensor]],
    jobs: Iterable[tuple[int, ExampleSet]],
) -> Iterator[Scores]:
    """Score example sets, each under one of several adapters; only those of the passes at work are in memory.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        lanes: in which passes run side by side.
        adapters: fp32 tensors under PEFT's names.
        jobs: (index of the adapter, examples) pairs, sorted by adapter, none without examples; taken when a pass has
            room for them.

    Yields:
        One `Scores` for each job, in order.
    """

    def score_places(places: Sequence[Place[Scores]]) -> tuple[np.ndarray, ...]:
        return _score_pass(model, grouped, adapters, places)

    return in_passes(lanes, jobs, Scores.of, score_places, apart=not grouped.cohorts)


@torch.no_grad()
def _score_pass(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapters: Sequence[Mapping[str, Tensor]],
    places: Sequence[Place[Scores]],
) -> tuple[np.ndarray, ...]:
    """Loss sum, number of labels, whether all are right and, of classification, the most likely class, by example."""
    groups: dict[int, list[Example]] = {}
    for place in places:
        groups.setdefault(place.adapter, []).extend(examples_at(place.examples, [place.index]))
    grouped.load([adapters[adapter] for adapter in groups], trainable=False)
    # An example's score is to be the same whichever examples share its pass.
    batch = pack_groups(grouped, list(groups.values()), share_prompts=False)
    label_losses, label_correct, label_predicted = score_labels(model, grouped, batch)
    losses, wrong = label_losses.double().cpu().numpy(), ~label_correct.cpu().numpy()
    owners = batch.label_examples.cpu().numpy()
    loss_sums = np.bincount(owners, losses, len(places))
    counts = np.bincount(owners, minlength=len(places))
    columns = (loss_sums, counts, np.bincount(owners, wrong, len(places)) == 0)
    if places[0].scores.classes is None:
        return columns
    predicted = np.empty(len(places), dtype=np.int64)
    predicted[owners] = label_predicted.cpu().numpy()
    return (*columns, predicted)
