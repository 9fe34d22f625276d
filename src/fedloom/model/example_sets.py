"""Stored examples as those that are packed."""

from __future__ import annotations

from collections.abc import Iterable

from fedloom.data.shards import ExampleSet
from fedloom.model.packing import Example


def examples_at(examples: ExampleSet, indices: Iterable[int]) -> list[Example]:
    """Read some examples of a set.

    Args:
        examples: the set.
        indices: places in it.

    Returns:
        The examples, in the order of the indices.
    """
    return [
        Example(
            examples.tokens(place),
            examples.trained(place),
            examples.key(place),
            examples.label(place),
            examples.place(place),
            examples.token_types(place),
        )
        for place in map(int, indices)
    ]
