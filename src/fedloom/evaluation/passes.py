"""Passes of evaluation: examples of many sets, under many adapters, filled into passes and handed back set by set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from fedloom.data.shards import ExampleSet
from fedloom.model.lanes import Lanes

TOKENS_PER_PASS = 4096


class Writable(Protocol):
    """The scores of a set, filled in as passes come to an end."""

    def write(self, index: int, found: Sequence[Any]) -> None:
        """Write what was found of one example."""
        ...


Found = TypeVar("Found", bound=Writable)


@dataclass(frozen=True)
class Place(Generic[Found]):
    """Where an example of a pass comes from, and where its scores go."""

    adapter: int
    examples: ExampleSet
    index: int
    scores: Found


@dataclass
class _Pass(Generic[Found]):
    """Examples scored together, and the jobs that are complete once they are."""

    places: list[Place[Found]] = field(default_factory=list)
    completes: list[Found] = field(default_factory=list)
    tokens: int = 0


def in_passes(
    lanes: Lanes,
    jobs: Iterable[tuple[int, ExampleSet]],
    empty: Callable[[ExampleSet], Found],
    score_places: Callable[[Sequence[Place[Found]]], tuple[np.ndarray, ...]],
    apart: bool,
) -> Iterator[Found]:
    """Score example sets; only those of the passes at work are in memory.

    Args:
        lanes: in which passes run side by side.
        jobs: (index of the adapter, examples) pairs, sorted by adapter, none without examples; taken when a pass has
            room for them.
        empty: the scores of a set before any is known.
        score_places: scores the examples of a pass: arrays with a row for each.
        apart: whether no pass may have several adapters.

    Yields:
        The scores of each job, in order.
    """
    taken: deque[_Pass[Found]] = deque()

    def take() -> Iterator[list[Place[Found]]]:
        for one in _passes(jobs, empty, apart):
            taken.append(one)
            yield one.places

    for columns in lanes.map(score_places, take()):
        one = taken.popleft()
        for number, place in enumerate(one.places):
            place.scores.write(place.index, [column[number] for column in columns])
        yield from one.completes


def _passes(
    jobs: Iterable[tuple[int, ExampleSet]], empty: Callable[[ExampleSet], Found], apart: bool
) -> Iterator[_Pass[Found]]:
    filling: _Pass[Found] = _Pass()
    for adapter, examples in jobs:
        scores = empty(examples)
        for index, length in enumerate(examples.lengths.tolist()):
            other = apart and filling.places and filling.places[-1].adapter != adapter
            if filling.places and (other or filling.tokens + length > TOKENS_PER_PASS):
                yield filling
                filling = _Pass()
            filling.places.append(Place(adapter, examples, index, scores))
            filling.tokens += length
        filling.completes.append(scores)
    if filling.places:
        yield filling
