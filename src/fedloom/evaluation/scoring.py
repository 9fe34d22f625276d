"""Scores of examples under adapters: several adapters over one base in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import pack_groups, score_labels
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.packing import Example

TOKENS_PER_PASS = 4096


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


@dataclass(frozen=True)
class _Place:
    """Where an example of a pass comes from, and where its scores go."""

    adapter: int
    examples: ExampleSet
    index: int
    scores: Scores


@dataclass
class _Pass:
    """Examples scored together, and the jobs that are complete once they are."""

    places: list[_Place] = field(default_factory=list)
    completes: list[Scores] = field(default_factory=list)
    tokens: int = 0


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
    passes = _passes(jobs, apart=not grouped.cohorts)
    taken: deque[_Pass] = deque()

    def take() -> Iterator[list[_Place]]:
        for one in passes:
            taken.append(one)
            yield one.places

    def score_places(places: list[_Place]) -> tuple[np.ndarray, ...]:
        return _score_pass(model, grouped, adapters, places)

    for columns in lanes.map(score_places, take()):
        one = taken.popleft()
        for number, place in enumerate(one.places):
            place.scores.write(place.index, [column[number] for column in columns])
        yield from one.completes


def _passes(jobs: Iterable[tuple[int, ExampleSet]], apart: bool) -> Iterator[_Pass]:
    """Fill passes; `apart`: none with several adapters."""
    filling = _Pass()
    for adapter, examples in jobs:
        scores = Scores.of(examples)
        for index, length in enumerate(examples.lengths.tolist()):
            other = apart and filling.places and filling.places[-1].adapter != adapter
            if filling.places and (other or filling.tokens + length > TOKENS_PER_PASS):
                yield filling
                filling = _Pass()
            filling.places.append(_Place(adapter, examples, index, scores))
            filling.tokens += length
        filling.completes.append(scores)
    if filling.places:
        yield filling


@torch.no_grad()
def _score_pass(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapters: Sequence[Mapping[str, Tensor]],
    places: Sequence[_Place],
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
