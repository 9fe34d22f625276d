"""What a round came to, summed over its updates as they pass by on their way into the aggregate."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fedloom.aggregation import Accumulator, RejectedUpdate, Update
from fedloom.aggregation.folding import Foldable, Folded
from fedloom.runtime.base import MadeTogether


@dataclass
class Tally:
    """Sums over the updates of one round.

    Args:
        losses: each client's mean training loss, in the order of arrival.
        rejected: why an update was not aggregated, by client.
        examples: training examples of all clients.
        weighted_loss: sum over clients of examples times loss.
        tokens: trained, without padding.
        curriculum_examples: of them, those that a curriculum chose; 0 without one.
        curriculum_tokens: of passes that measured how hard examples are.
        bytes_up: sent by clients.
        bytes_down: sent to clients.
        train_seconds: spent waiting for updates, which in-process is the time of training.
        process_seconds: how long each of several processes trained and folded; empty in a single one.
    """

    losses: dict[str, float] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    examples: int = 0
    weighted_loss: float = 0.0
    tokens: int = 0
    curriculum_examples: int = 0
    curriculum_tokens: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    train_seconds: float = 0.0
    process_seconds: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float | None:
        """Mean training loss, weighted by examples; None where nobody trained."""
        return self.weighted_loss / self.examples if self.examples else None

    def watch(self, updates: Iterable[Update]) -> Iterable[Update]:
        """Pass updates on, noting what they report.

        Args:
            updates: from a runtime.

        Returns:
            The same updates, to iterate over or to fold.
        """
        return _Watched(updates, self)

    def note(self, update: Update) -> None:
        """Add one update's numbers.

        Args:
            update: with or without its tensors.
        """
        self.losses[update.client] = update.metrics["loss"]
        self.examples += update.num_examples
        self.weighted_loss += update.num_examples * update.metrics["loss"]
        self.tokens += update.metrics["tokens"]
        self.curriculum_examples += update.metrics.get("curriculum_examples", 0)
        self.curriculum_tokens += update.metrics.get("curriculum_tokens", 0)
        self.bytes_up += update.metrics["bytes_up"]
        self.bytes_down += update.metrics["bytes_down"]


class _Watched:
    """Updates on their way from a runtime to an algorithm."""

    def __init__(self, updates: Iterable[Update], tally: Tally) -> None:
        self._updates = updates
        self._tally = tally

    def __iter__(self) -> Iterator[Update]:
        updates = iter(self._updates)
        while True:
            began = time.perf_counter()
            update = next(updates, None)
            self._tally.train_seconds += time.perf_counter() - began
            if update is None:
                self._note_processes()
                return
            self._tally.note(update)
            yield update

    def fold(self, into: Accumulator) -> Folded:
        """Fold where the updates are; see `Foldable`."""
        if isinstance(self._updates, Foldable):
            began = time.perf_counter()
            folded = self._updates.fold(into)
            self._tally.train_seconds += time.perf_counter() - began
            for report in folded.reports:
                self._tally.note(report)
            self._tally.rejected.update(folded.rejected)
            self._note_processes()
            return folded
        folded = Folded()
        for update in self:
            try:
                into.add(update)
            except RejectedUpdate as rejection:
                self.reject(update.client, str(rejection))
        return folded

    def _note_processes(self) -> None:
        if isinstance(self._updates, MadeTogether):
            self._tally.process_seconds = list(self._updates.process_seconds)

    def reject(self, client: str, reason: str) -> None:
        """Note an update that is not aggregated; see `Rejecting`."""
        self._tally.rejected[client] = reason
