"""The default runtime: cohorts of clients trained in this process, each cohort in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation import Algorithm, Update
from fedloom.data.shards import ExampleSet
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.units import find_blocks, layer_weights
from fedloom.recipe import Recipe
from fedloom.recipe.pruning_schema import prunes
from fedloom.recipe.ranks import client_rank
from fedloom.runtime.attack import Attack
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.cohort_size import CohortSizer
from fedloom.runtime.curriculum import Curriculum
from fedloom.runtime.exchange import Exchange
from fedloom.runtime.pruning import ClientPruning, Prunable
from fedloom.runtime.sparse_updates import SparseUpdates
from fedloom.runtime.task import ClientTask
from fedloom.training.batches import round_batches, round_tokens
from fedloom.training.client import ClientWork, LocalTraining
from fedloom.training.cohort import ClientResult, train_cohort
from fedloom.training.objectives import Objective
from fedloom.training.optimizers import local_optimizer
from fedloom.training.unit_importance import unit_importance


class InProcessRuntime:
    """Trains a plan's clients over one base model held in this process.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        recipe: the run.
        train_examples: a client's training examples by its name.
        store: clients' state from round to round.
        lanes: in which cohorts train side by side.
        objective: what clients minimise.
        attack: which clients do not send what they have learnt; None: all do.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grouped: GroupedAdapter[Any],
        recipe: Recipe,
        train_examples: Callable[[str], ExampleSet],
        store: ClientStore,
        lanes: Lanes,
        objective: Objective,
        attack: Attack | None = None,
    ) -> None:
        self.model = model
        self.grouped = grouped
        self.recipe = recipe
        self.train_examples = train_examples
        self.store = store
        self.lanes = lanes
        self.objective = objective
        self.attack = attack
        self.curriculum = None if recipe.local.curriculum is None else Curriculum(model, grouped, recipe, lanes)
        self.prunable = self._prunable() if prunes(recipe) else None
        self.sizer = CohortSizer(model, grouped, recipe.runtime, lanes.count, recipe.local.sparse is not None)

    def train(self, plan: RoundPlan, broadcast: Mapping[str, Tensor], algorithm: Algorithm) -> Iterator[Update]:
        """Train the plan's clients, cohort by cohort; see `Runtime`."""
        return self.train_some(plan, plan.clients, broadcast, algorithm)

    def train_some(
        self, plan: RoundPlan, clients: Sequence[str], broadcast: Mapping[str, Tensor], algorithm: Algorithm
    ) -> Iterator[Update]:
        """Train some of a plan's clients; what becomes of a client does not depend on which others are among them.

        Args:
            plan: the round.
            clients: of the plan, in its order.
            broadcast: the adapter, and what the algorithm sends beside it.
            algorithm: whose clients' half says how they train.

        Yields:
            One update for each of them, in their order.
        """
        if not clients:
            return
        self.grouped.change_base(broadcast)
        attack = None if plan.personal else self.attack
        exchange = Exchange(
            self.grouped,
            plan,
            broadcast,
            algorithm,
            self.store,
            self.recipe.federation.private,
            self.rank_of,
            attack,
            self.curriculum,
            self._sparse(),
            self._pruning(plan),
        )
        self.objective.prepare(map(self.train_examples, clients))
        # Of everybody only lengths are kept, as the local baseline plans the whole population; tasks are made anew.
        cohorts = self.sizer.cohorts([self._task(plan, client).tokens for client in clients])

        def train_members(cohort: range) -> list[Update]:
            tasks = [self._task(plan, clients[place]) for place in cohort]
            work = exchange.work(tasks)
            results = iter(self._train(plan, exchange, [piece for pieces in work for piece in pieces]))
            return exchange.updates(tasks, [[next(results) for _ in pieces] for pieces in work])

        for updates in self.lanes.map(train_members, cohorts, alone=len(plan.clients) == 1):
            yield from updates

    def rank_of(self, client: str) -> int:
        """The rank of a client's adapter."""
        return client_rank(self.recipe.model.adapter, self.recipe.seed, client)

    def load_of(self, plan: RoundPlan, client: str) -> float:
        """How much there is to train at a client, roughly: the same in every round.

        Args:
            plan: the round.
            client: one of its clients.

        Returns:
            Tokens of a round's batches, were all examples of the client's mean length.
        """
        return round_tokens(self.train_examples(client).lengths, self.recipe.local, plan.batch_size)

    def _sparse(self) -> Callable[[set[str], set[str]], SparseUpdates] | None:
        config = self.recipe.local.sparse
        return None if config is None else partial(SparseUpdates, self.grouped, config.momentum)

    def _prunable(self) -> Prunable:
        config, blocks = self.recipe.local.pruning, find_blocks(self.model)
        assert config is not None

        def measure(adapter: Adapter, examples: ExampleSet, indices: np.ndarray) -> Tensor:
            return unit_importance(self.model, self.grouped, blocks, adapter, examples, indices)

        return Prunable(config, blocks, layer_weights(self.model, blocks), measure)

    def _pruning(self, plan: RoundPlan) -> Callable[[set[str]], ClientPruning] | None:
        if self.prunable is None:
            return None
        return partial(ClientPruning, self.grouped, self.prunable, self.recipe.seed, plan.round)

    def _task(self, plan: RoundPlan, client: str) -> ClientTask:
        examples = self.train_examples(client)
        if self.attack is not None and not plan.personal:
            examples = self.attack.examples(client, examples)
        seed, local = self.recipe.seed, self.recipe.local
        batches = round_batches(len(examples), local, plan.batch_size, seed, plan.round, client)
        lengths = examples.lengths
        longest = max(int(lengths[batch].sum()) for batch in batches)
        return ClientTask(client, examples, batches, self.objective.readings * longest)

    def _train(self, plan: RoundPlan, exchange: Exchange, work: Sequence[ClientWork]) -> list[ClientResult]:
        local = self.recipe.local
        training = LocalTraining(
            local_optimizer(local),
            plan.learning_rate,
            local.max_gradient_norm,
            plan.round,
            local.momentum,
            exchange.entries,
            self.objective,
        )
        results: dict[int, ClientResult] = {}
        for places in self._passes(work):
            trained = train_cohort(self.model, self.grouped, [work[place] for place in places], training)
            results.update(zip(places, trained, strict=True))
        return [results[place] for place in range(len(work))]

    def _passes(self, work: Sequence[ClientWork]) -> list[list[int]]:
        """Which pieces of work are trained together: all but those over smaller weights of their own."""
        alone = [piece.omission is not None and piece.omission.sliced for piece in work]
        if not self.grouped.cohorts:
            alone = [True for _ in work]
        together = [place for place, single in enumerate(alone) if not single]
        return ([together] if together else []) + [[place] for place, single in enumerate(alone) if single]
