"""A client's round under a curriculum: how hard its examples are, kept with the client, and what it trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.grouped_adapter import GroupedAdapter
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

    def lesson(
        self, plan: RoundPlan, task: ClientTask, work: Sequence[ClientWork], stored: Mapping[str, Tensor]
    ) -> Lesson:
        """Choose a client's examples for a round: it then trains as one that has no others.

        Args:
            plan: the round.
            task: the client's, with all of its examples.
            work: its pieces; difficulties are measured under the adapter that the first begins with.
            stored: what it kept of its last lesson; empty before its first.

        Returns:
            The lesson.
        """
        seed, examples = self.recipe.seed, task.examples
        difficulties = known_difficulties(self.config.difficulty, examples, seed, task.client)
        kept: dict[str, Tensor] = {}
        tokens = 0
        if difficulties is None:
            since = int(stored[ROUNDS_SINCE]) + 1 if stored else 0
            if not stored or since == self.config.refresh:
                since, tokens = 0, int(examples.lengths.sum())
                # Clients of a round with several are in lanes themselves.
                lanes = self.lanes if len(plan.clients) == 1 else None
                difficulties = measured_difficulties(
                    self.config.difficulty, self.model, self.grouped, work[0].adapter, examples, lanes
                )
            else:
                difficulties = stored[DIFFICULTIES].numpy()
            kept = {DIFFICULTIES: torch.from_numpy(difficulties), ROUNDS_SINCE: torch.tensor(since)}
        chosen = easiest(difficulties, plan.data_share, plan.batch_size)
        batches = round_batches(len(chosen), self.recipe.local, plan.batch_size, seed, plan.round, task.client)
        some = examples.subset(np.asarray(chosen))
        return Lesson([replace(piece, examples=some, batches=batches) for piece in work], kept, len(chosen), tokens)
