"""A client's round under a curriculum: how hard its examples are, kept with the client, and what it trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.recipe import Recipe
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.task import ClientTask
from fedloom.training.batches import round_batches
from fedloom.training.client import ClientWork
from fedloom.training.curriculum import easiest
from fedloom.training.difficulty import known_difficulties, measured_difficulties

# Parts of what a client keeps.
DIFFICULTIES, ROUNDS_SINCE = "difficulties", "rounds_since"


@dataclass(frozen=True)
class Lesson:
    """What the curriculum has chosen for a client's round.

    Args:
        work: the client's pieces of work, on the chosen examples.
        kept: tensors that the client keeps for its next round.
        examples: how many are chosen.
        tokens: of the passes that measured difficulties.
    """

    work: list[ClientWork]
    kept: Mapping[str, Tensor]
    examples: int
    tokens: int

    @property
    def metrics(self) -> dict[str, float]:
        """What the client reports of it."""
        return {"curriculum_examples": self.examples, "curriculum_tokens": self.tokens}


class Curriculum:
    """Chooses what clients train on.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        recipe: the run, with a curriculum.
        lanes: in which the examples of a round's only client are measured.
    """

    def __init__(self, model: PreTrainedModel, grouped: GroupedAdapter[Any], recipe: Recipe, lanes: Lanes) -> None:
        assert recipe.local.curriculum is not None
        self.model = model
        self.grouped = grouped
        self.recipe = recipe
        self.lanes = lanes
        self.config = recipe.local.curriculum

    def lessons(
        self,
        plan: RoundPlan,
        tasks: Sequence[ClientTask],
        work: Sequence[Sequence[ClientWork]],
        stored: Sequence[Mapping[str, Tensor]],
    ) -> list[Lesson]:
        """Choose clients' examples for a round: each then trains as one that has no others.

        Args:
            plan: the round.
            tasks: the clients', with all of their examples.
            work: the pieces of each; difficulties are measured under the adapter that the first begins with.
            stored: what each kept of its last lesson; empty before its first.

        Returns:
            The lessons.
        """
        config, seed = self.config, self.recipe.seed
        known = [known_difficulties(config.difficulty, task.examples, seed, task.client) for task in tasks]
        kept: list[dict[str, Tensor]] = [{} for _ in tasks]
        new: list[int] = []
        for place, state in enumerate(stored):
            if known[place] is not None:
                continue
            since = int(state[ROUNDS_SINCE]) + 1 if state else 0
            if not state or since == config.refresh:
                since = 0
                new.append(place)
            else:
                known[place] = state[DIFFICULTIES].numpy()
            kept[place][ROUNDS_SINCE] = torch.tensor(since)
        measured = self._measured(plan, [tasks[place] for place in new], [work[place][0].adapter for place in new])
        for place, values in zip(new, measured, strict=True):
            known[place] = values
        lessons = []
        for place, (task, pieces) in enumerate(zip(tasks, work, strict=True)):
            difficulties = known[place]
            assert difficulties is not None
            if kept[place]:
                kept[place][DIFFICULTIES] = torch.from_numpy(difficulties)
            chosen = easiest(difficulties, plan.data_share, plan.batch_size)
            batches = round_batches(len(chosen), self.recipe.local, plan.batch_size, seed, plan.round, task.client)
            some = task.examples.subset(np.asarray(chosen))
            chosen_work = [replace(piece, examples=some, batches=batches) for piece in pieces]
            tokens = int(task.examples.lengths.sum()) if place in new else 0
            lessons.append(Lesson(chosen_work, kept[place], len(chosen), tokens))
        return lessons

    def _measured(
        self, plan: RoundPlan, tasks: Sequence[ClientTask], adapters: Sequence[Adapter]
    ) -> list[NDArray[np.float64]]:
        """Clients that begin with the very same tensors, as new ones do, share passes."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, adapter in enumerate(adapters):
            alike.setdefault(tuple(map(id, adapter.values())), []).append(place)
        # Clients of a round with several are in lanes themselves.
        lanes = self.lanes if len(plan.clients) == 1 else None
        found: dict[int, NDArray[np.float64]] = {}
        for places in alike.values():
            sets = [tasks[place].examples for place in places]
            start = adapters[places[0]]
            every = measured_difficulties(self.config.difficulty, self.model, self.grouped, start, sets, lanes)
            found.update(zip(places, every, strict=True))
        return [found[place] for place in range(len(tasks))]
