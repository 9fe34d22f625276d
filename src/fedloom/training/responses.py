"""The two responses of each preference: as sequences to pack, and their log-probabilities from the losses of labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.packing import Example, PackedBatch


def two_responses(examples: ExampleSet, indices: Iterable[int], longest: int) -> list[Example]:
    """Read preferences as sequences of prompt and response, two for each, one after the other.

    Of a pair these are the chosen and the rejected one. Of an example with a single response the second is the prompt
    with the response of another example, by which KTO estimates how far the policy has moved.

    Args:
        examples: all of a client's.
        indices: places of those to read.
        longest: tokens that a sequence may have; a response is cut to it.

    Returns:
        Twice as many sequences as indices.
    """
    places = [int(index) for index in indices]
    if not places or examples.desirable(places[0]) is None:
        return examples_at(examples, places)
    own = examples_at(examples, places)
    return [
        one
        for place, example in zip(places, own, strict=True)
        for one in (example, _joined(examples, place, partner(examples, place), longest))
    ]


def partner(examples: ExampleSet, place: int) -> int:
    """The example whose response is put after another one's prompt: the nearest before it that has another prompt.

    TRL takes the one before it, too, within a batch; here it is the same whichever examples share a batch, so that
    what the reference makes of it is the same in every round. (Of a pair that is split in two, the one before may
    answer the same prompt.)

    Args:
        examples: all of a client's.
        place: of the example with the prompt.

    Returns:
        A place; after the first comes the last. The one right before, where all have the same prompt.
    """
    prompt = _prompt(examples, place)
    for distance in range(1, len(examples)):
        other = (place - distance) % len(examples)
        if not np.array_equal(_prompt(examples, other), prompt):
            return other
    return (place - 1) % len(examples)


def desirable_at(examples: ExampleSet, indices: Iterable[int]) -> Tensor | None:
    """Whether the responses of single-response examples are to become more likely.

    Args:
        examples: of preferences.
        indices: places of some of them.

    Returns:
        bool [n]; None of pairs.
    """
    found = [examples.desirable(int(index)) for index in indices]
    return None if any(one is None for one in found) else torch.tensor(found, dtype=torch.bool)


def response_sums(losses: Tensor, packed: PackedBatch) -> tuple[Tensor, Tensor]:
    """Log-probabilities of whole responses.

    Args:
        losses: fp32 [labels], the cross-entropy of each.
        packed: the batch that they are of, two sequences for each preference.

    Returns:
        Two of fp64 [preferences, 2]: the sums of a response's log-probabilities, differentiable, and its tokens.
    """
    sequences = len(packed.examples)
    sums = losses.new_zeros(sequences, dtype=torch.float64).index_add(0, packed.label_examples, -losses.double())
    tokens = torch.bincount(packed.label_examples, minlength=sequences).double()
    return sums.view(-1, 2), tokens.view(-1, 2)


def _joined(examples: ExampleSet, place: int, other: int, longest: int) -> Example:
    start = len(_prompt(examples, other))
    prompt, response = _prompt(examples, place), examples.tokens(other)[start:]
    tokens = np.concatenate([prompt, response])[:longest]
    trained = np.concatenate([np.zeros(len(prompt), dtype=bool), examples.trained(other)[start:]])[:longest]
    return Example(tokens, trained)


def _prompt(examples: ExampleSet, place: int) -> np.ndarray:
    """What comes before an example's first trained token."""
    return examples.tokens(place)[: int(np.argmax(examples.trained(place)))]
