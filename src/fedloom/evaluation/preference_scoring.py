"""Scores of preferences: the responses' log-probabilities under adapters and under the reference, and the distance."""

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
from fedloom.model.forward import LabelDistributions, label_distributions, pack_groups
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.head_loss import ROWS
from fedloom.model.lanes import Lanes
from fedloom.model.loaded_adapters import ORIGINAL_BASE
from fedloom.model.packing import Example, PackedBatch
from fedloom.recipe.preference_schema import PreferenceOptions
from fedloom.training.preference_losses import Responses, preference_losses, rewards
from fedloom.training.responses import desirable_at, two_responses


@dataclass(frozen=True)
class PreferenceScores:
    """Per-example scores of one set of preferences; [n, 2] is of both responses, see `Responses`.

    Args:
        options: the recipe's task.
        policy: fp64 [n, 2], sums of the log-probabilities of a response's tokens under the adapter.
        reference: fp64 [n, 2], the same under the reference.
        tokens: fp64 [n, 2].
        divergences: fp64 [n, 2], sums over a response's tokens of the Kullback-Leibler divergence of the adapter's
            distribution over the vocabulary from the reference's.
        desirable: bool [n], of single responses; None of pairs.
    """

    options: PreferenceOptions
    policy: np.ndarray
    reference: np.ndarray
    tokens: np.ndarray
    divergences: np.ndarray
    desirable: np.ndarray | None

    @classmethod
    def of(cls, options: PreferenceOptions, examples: ExampleSet) -> PreferenceScores:
        """The scores of examples before any is known."""
        desirable = desirable_at(examples, range(len(examples)))
        policy, reference, tokens, divergences = (np.zeros((len(examples), 2)) for _ in range(4))
        known = None if desirable is None else desirable.numpy()
        return cls(options, policy, reference, tokens, divergences, known)

    def __len__(self) -> int:
        return len(self.policy)

    def write(self, index: int, found: Sequence[Any]) -> None:
        """Write what was found of one example: policy, reference, tokens and divergences."""
        columns = (self.policy, self.reference, self.tokens, self.divergences)
        for column, values in zip(columns, found, strict=True):
            column[index] = values

    def measures(self) -> dict[str, float]:
        """What the set's examples come to.

        Returns:
            loss: mean over examples. reward_accuracy: of pairs, the share whose chosen response has the higher reward;
            of single responses, the share whose reward has the sign that is wanted; equal rewards, and rewards of 0,
            count one half, so that a model that is the reference has 0.5. chosen_reward and rejected_reward: means, of
            single responses over the desirable and the undesirable ones (not there where there are none).
            reward_margin: their difference. kl: mean over the responses' tokens of the Kullback-Leibler divergence
            from the reference, in nats, exact over the vocabulary.
        """
        policy, tokens, reference = map(torch.from_numpy, (self.policy, self.tokens, self.reference))
        desirable = None if self.desirable is None else torch.from_numpy(self.desirable)
        responses = Responses(policy, tokens, reference, desirable)
        found = {"loss": float(preference_losses(self.options, responses).mean())}
        both = rewards(self.options, responses).numpy()
        if self.desirable is None:
            chosen, rejected = both.T
            ahead, own = chosen - rejected, slice(None)
        else:
            chosen, rejected = both[self.desirable, 0], both[~self.desirable, 0]
            # The second response is another example's.
            ahead, own = np.where(self.desirable, both[:, 0], -both[:, 0]), slice(1)
        found["reward_accuracy"] = float(np.mean((1 + np.sign(ahead)) / 2))
        found |= {
            name: float(values.mean())
            for name, values in (("chosen_reward", chosen), ("rejected_reward", rejected))
            if len(values)
        }
        if len(chosen) and len(rejected):
            found["reward_margin"] = found["chosen_reward"] - found["rejected_reward"]
        return found | {"kl": float(self.divergences[:, own].sum() / self.tokens[:, own].sum())}


def score_preferences(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    lanes: Lanes,
    adapters: Sequence[Mapping[str, Tensor]],
    reference: Mapping[str, Tensor],
    options: PreferenceOptions,
    longest: int,
    jobs: Iterable[tuple[int, ExampleSet]],
) -> Iterator[PreferenceScores]:
    """As `score`, of preferences.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        lanes: in which passes run side by side.
        adapters: fp32 tensors under PEFT's names.
        reference: the adapter that training started from.
        options: the recipe's task.
        longest: tokens that an example may have.
        jobs: as `score` takes them.

    Yields:
        One `PreferenceScores` for each job, in order.
    """

    def score_places(places: Sequence[Place[PreferenceScores]]) -> tuple[np.ndarray, ...]:
        groups: dict[int, list[Example]] = {}
        for place in places:
            groups.setdefault(place.adapter, []).extend(two_responses(place.examples, [place.index], longest))
        loaded = [adapters[adapter] for adapter in groups]
        packed, ours = _distributions(model, grouped, loaded, list(groups.values()))
        with grouped.borrowed(ORIGINAL_BASE):
            _, theirs = _distributions(model, grouped, [reference] * len(loaded), list(groups.values()))
        return _compared(packed, ours, theirs)

    return in_passes(
        lanes, jobs, lambda examples: PreferenceScores.of(options, examples), score_places, not grouped.cohorts
    )


@torch.no_grad()
def _distributions(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapters: Sequence[Mapping[str, Tensor]],
    groups: Sequence[Sequence[Example]],
) -> tuple[PackedBatch, LabelDistributions]:
    grouped.load(adapters, trainable=False)
    # An example's score is to be the same whichever examples share its pass.
    packed = pack_groups(grouped, groups, share_prompts=False)
    return packed, label_distributions(model, grouped, packed)


@torch.no_grad()
def _compared(packed: PackedBatch, ours: LabelDistributions, theirs: LabelDistributions) -> tuple[np.ndarray, ...]:
    """Log-probabilities under both, tokens and divergences, each fp64 [preferences, 2]."""
    found: list[list[np.ndarray]] = [[], [], []]
    for first in range(0, len(packed.labels), ROWS):
        rows = slice(first, first + ROWS)
        labels = packed.labels[rows, None]
        policy, reference = (one(rows)[: len(labels)] for one in (ours, theirs))
        divergence = (policy.exp() * (policy - reference)).sum(-1)
        values = (policy.gather(-1, labels)[:, 0], reference.gather(-1, labels)[:, 0], divergence)
        for column, value in zip(found, values, strict=True):
            column.append(value.double().cpu().numpy())
    owners, count = packed.label_examples.cpu().numpy(), len(packed.examples)
    policy_sums, reference_sums, divergences = (
        np.bincount(owners, np.concatenate(column), count).reshape(-1, 2) for column in found
    )
    tokens = np.bincount(owners, minlength=count).astype(np.float64).reshape(-1, 2)
    return policy_sums, reference_sums, tokens, divergences
