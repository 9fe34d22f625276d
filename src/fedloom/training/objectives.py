"""What a step of training minimises for each client: the mean loss of its labels, or of its preferences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.packing import Example, PackedBatch
from fedloom.recipe.preference_schema import PreferenceOptions
from fedloom.training.preference_losses import Responses, preference_losses
from fedloom.training.references import References
from fedloom.training.responses import desirable_at, response_sums, two_responses


@dataclass(frozen=True)
class ClientBatch:
    """One client's examples of a step.

    Args:
        examples: the sequences to pack; of preferences two for each example.
        reference: fp64 [n, 2], what the reference makes of the responses of n preferences; None without one.
        desirable: bool [n], of preferences of single responses; None of others.
    """

    examples: list[Example]
    reference: Tensor | None = None
    desirable: Tensor | None = None


@dataclass(frozen=True)
class StepLoss:
    """The loss of a pass.

    Args:
        total: a scalar to be differentiated, the sum over clients of each one's own mean.
        sums: fp64 [clients], each client's losses, added up.
        counts: int64 [clients], how many losses these are: labels, or preferences.
    """

    total: Tensor
    sums: Tensor
    counts: np.ndarray


class Objective(Protocol):
    """What clients minimise; no client's gradient depends on another's examples.

    `readings` is how often each token of an example is in a pass.
    """

    readings: int

    def prepare(self, sets: Iterable[ExampleSet]) -> None:
        """Find out what has to be known of examples before anybody trains on them.

        Args:
            sets: all examples of each client of a round.
        """
        ...

    def batch(self, examples: ExampleSet, indices: np.ndarray) -> ClientBatch:
        """Read a client's examples of a step.

        Args:
            examples: all of the client's.
            indices: those of the step.
        """
        ...

    def loss(self, losses: Tensor, packed: PackedBatch, clients: Sequence[ClientBatch]) -> StepLoss:
        """Put the losses of labels together.

        Args:
            losses: fp32 [labels], the cross-entropy of each.
            packed: the batch that they are of.
            clients: for each group of the batch, what it has packed; nothing for a group that is not of this pass.
        """
        ...


class LabelObjective:
    """The mean cross-entropy of a client's labels: answers in text, and classes."""

    readings = 1

    def prepare(self, sets: Iterable[ExampleSet]) -> None:
        """See `Objective`: nothing."""

    def batch(self, examples: ExampleSet, indices: np.ndarray) -> ClientBatch:
        """See `Objective`."""
        return ClientBatch(examples_at(examples, indices))

    def loss(self, losses: Tensor, packed: PackedBatch, clients: Sequence[ClientBatch]) -> StepLoss:
        """See `Objective`."""
        counts = packed.label_counts.to(losses.dtype)
        sums = torch.zeros(len(clients), dtype=torch.float64, device=losses.device)
        sums.index_add_(0, packed.label_groups, losses.detach().double())
        return StepLoss((losses / counts[packed.label_groups]).sum(), sums, packed.label_counts.cpu().numpy())


class PreferenceObjective:
    """The mean loss of a client's preferences.

    Args:
        options: the recipe's task, which names the loss.
        longest: tokens that an example may have.
        references: what the model that training started from makes of the responses; None for losses without one.
    """

    def __init__(self, options: PreferenceOptions, longest: int, references: References | None) -> None:
        self.options = options
        # KTO puts every response after another prompt, too.
        self.readings = 2 if options.pairs_are_split else 1
        self.longest = longest
        self.references = references

    def prepare(self, sets: Iterable[ExampleSet]) -> None:
        """See `Objective`: what the reference makes of them, unless it is known from an earlier round."""
        if self.references is not None:
            self.references.prepare(sets)

    def batch(self, examples: ExampleSet, indices: np.ndarray) -> ClientBatch:
        """See `Objective`."""
        reference = None if self.references is None else self.references.of(examples, indices)
        return ClientBatch(two_responses(examples, indices, self.longest), reference, desirable_at(examples, indices))

    def loss(self, losses: Tensor, packed: PackedBatch, clients: Sequence[ClientBatch]) -> StepLoss:
        """See `Objective`."""
        policy, tokens = response_sums(losses, packed)
        total = torch.zeros((), dtype=torch.float64, device=losses.device)
        sums = torch.zeros(len(clients), dtype=torch.float64, device=losses.device)
        counts = np.array([len(client.examples) // 2 for client in clients], dtype=np.int64)
        # Client by client: what exponentials give, to the last bit, depends on where in a vector they stand.
        parts = zip(policy.split(counts.tolist()), tokens.split(counts.tolist()), clients, strict=True)
        for place, (own, own_tokens, client) in enumerate(parts):
            if not client.examples:
                continue
            reference, desirable = (
                None if one is None else one.to(losses.device) for one in (client.reference, client.desirable)
            )
            found = preference_losses(self.options, Responses(own, own_tokens, reference, desirable))
            total = total + found.mean()
            sums[place] = found.detach().sum()
        return StepLoss(total, sums, counts)
