"""Measuring something of every example of several clients: examples share passes, whosever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.lanes import Lanes
from fedloom.model.packing import Example

# A longer pass gains nothing on a CPU, and fewer could not be shared out evenly among lanes.
TOKENS = 2048


def measured(
    sets: Sequence[ExampleSet],
    measure: Callable[[list[Example]], NDArray[np.float64]],
    most: int | None = None,
    lanes: Lanes | None = None,
) -> list[NDArray[np.float64]]:
    """Measure every example of some sets.

    Args:
        sets: the clients' examples.
        measure: given those of a pass, fp64 [examples of the pass]; in a lane it has to load its adapters itself.
        most: examples that a pass may have; None: as many as its tokens allow.
        lanes: in which passes run side by side; None: one after another in this thread.

    Returns:
        fp64 [examples] for each set.
    """
    owners = np.repeat(np.arange(len(sets)), [len(some) for some in sets])
    places = np.concatenate([np.arange(len(some)) for some in sets])
    lengths = np.concatenate([some.lengths for some in sets])
    # Examples of equal lengths are neighbours, so that their gradients are products of one batch.
    order = np.lexsort((np.concatenate([some.label_counts for some in sets]), lengths))

    def of_pass(members: range) -> NDArray[np.float64]:
        chosen = order[members.start : members.stop]
        return measure([one for row in chosen for one in examples_at(sets[owners[row]], [places[row]])])

    jobs = passes(lengths[order], most or len(order))
    parts = list(map(of_pass, jobs)) if lanes is None else lanes.map_within(of_pass, jobs)
    found = np.zeros(len(order))
    found[order] = np.concatenate(parts)
    return np.split(found, np.cumsum([len(some) for some in sets])[:-1])


def passes(lengths: NDArray[np.int64], most: int) -> Iterator[range]:
    """Cut examples into passes of about `TOKENS` tokens.

    Args:
        lengths: int64 [examples], their tokens.
        most: examples a pass may have.

    Yields:
        Ranges of places, in order; none is empty.
    """
    first = tokens = 0
    for place, length in enumerate(lengths.tolist()):
        if place > first and (place - first == most or tokens + length > TOKENS):
            yield range(first, place)
            first, tokens = place, 0
        tokens += length
    if first < len(lengths):
        yield range(first, len(lengths))
