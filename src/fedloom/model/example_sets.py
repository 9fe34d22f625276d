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
        The examples, in the order of the indices; of pairs two for each, the chosen half and then the rejected one,
        which begin with the same tokens. Keys of halves are twice the pair's, and one more.
    """
    found = []
    for place in map(int, indices):
        tokens, trained, key = examples.tokens(place), examples.trained(place), examples.key(place)
        rejected = examples.rejected(place)
        if rejected is not None:
            first, second = (None, None) if key is None else (2 * key, 2 * key + 1)
            found += [Example(tokens, trained, first), Example(*rejected, second)]
            continue
        label, read = examples.label(place), examples.place(place)
        found.append(Example(tokens, trained, key, label, read, examples.token_types(place)))
    return found
