"""The default runtime: cohorts of clients trained in this process, each cohort in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation import Update
from fedloom.data.shards import ExampleSet
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.lanes import Lanes
from fedloom.recipe import Recipe
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.cohort_size import CohortSizer
from fedloom.training.batches import round_batches, round_tokens
from fedloom.training.cohort import ClientResult, ClientWork, train_cohort
from fedloom.training.optimizers import local_optimizer
from fedloom.wire.encoding import encode

ADAPTER, MOMENTS = "adapter/", "optimizer/"


@dataclass(frozen=True)
class _Task:
    """A client's round before its adapter is fetched."""

    client: str
    examples: ExampleSet
    batches: list[np.ndarray]
    tokens: int


class InProcessRuntime:
    """Trains a plan's clients over one base model held in this process.

    Args:
        model: the frozen base.
        lora: its grouped adapters.
        recipe: the run.
        train_examples: a client's training examples by its name.
        store: clients' state from round to round.
        lanes: in which cohorts train side by side.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        lora: GroupedLora,
        recipe: Recipe,
        train_examples: Callable[[str], ExampleSet],
        store: ClientStore,
        lanes: Lanes,
    ) -> None:
        self.model = model
        self.lora = lora
        self.recipe = recipe
        self.train_examples = train_examples
        self.store = store
        self.lanes = lanes
        self.sizer = CohortSizer(model, lora, recipe.runtime, lanes.count)

    def train(self, plan: RoundPlan, broadcast: Mapping[str, Tensor]) -> Iterator[Update]:
        """Train the plan's clients, cohort by cohort; see `Runtime`."""
        return self.train_some(plan, plan.clients, broadcast)

    def train_some(self, plan: RoundPlan, clients: Sequence[str], broadcast: Mapping[str, Tensor]) -> Iterator[Update]:
        """Train some of a plan's clients; what becomes of a client does not depend on which others are among them.

        Args:
            plan: the round.
            clients: of the plan, in its order.
            broadcast: the adapter sent to the clients.

        Yields:
            One update for each of them, in their order.
        """
        if not clients:
            return
        adapter_bytes = len(encode(broadcast))
        # Of everybody only lengths are kept, as the local baseline plans the whole population; tasks are made anew.
        cohorts = self.sizer.cohorts([self._task(plan, client).tokens for client in clients])

        def train_members(cohort: range) -> list[tuple[_Task, ClientResult]]:
            tasks = [self._task(plan, clients[place]) for place in cohort]
            return list(zip(tasks, self._train(plan, [self._work(plan, t, broadcast) for t in tasks]), strict=True))

        for trained in self.lanes.map(train_members, cohorts, alone=len(plan.clients) == 1):
            for task, result in trained:
                if plan.personal:
                    self._keep(plan, result)
                yield _update(task, result, broadcast, adapter_bytes)

    def load_of(self, plan: RoundPlan, client: str) -> float:
        """How much there is to train at a client, roughly: the same in every round.

        Args:
            plan: the round.
            client: one of its clients.

        Returns:
            Tokens of a round's batches, were all examples of the client's mean length.
        """
        return round_tokens(self.train_examples(client).lengths, self.recipe.local, plan.batch_size)

    def _task(self, plan: RoundPlan, client: str) -> _Task:
        examples = self.train_examples(client)
        seed, local = self.recipe.seed, self.recipe.local
        batches = round_batches(len(examples), local, plan.batch_size, seed, plan.round, client)
        lengths = examples.lengths
        return _Task(client, examples, batches, max(int(lengths[batch].sum()) for batch in batches))

    def _work(self, plan: RoundPlan, task: _Task, broadcast: Mapping[str, Tensor]) -> ClientWork:
        stored = self.store.load(plan.arm, task.client, plan.round) if plan.personal else None
        if stored is None:
            return ClientWork(task.client, task.examples, task.batches, dict(broadcast))
        adapter, moments = _with_prefix(stored, ADAPTER), _with_prefix(stored, MOMENTS)
        return ClientWork(task.client, task.examples, task.batches, adapter, moments)

    def _train(self, plan: RoundPlan, work: Sequence[ClientWork]) -> list[ClientResult]:
        local = self.recipe.local
        optimizer, clip = local_optimizer(local), local.max_gradient_norm
        return train_cohort(self.model, self.lora, work, optimizer, plan.learning_rate, clip, plan.round)

    def _keep(self, plan: RoundPlan, result: ClientResult) -> None:
        tensors = {ADAPTER + name: value for name, value in result.adapter.items()}
        tensors |= {MOMENTS + name: value for name, value in result.optimizer_state.items()}
        self.store.save(plan.arm, result.client, plan.round, tensors)


def personal_adapter(store: ClientStore, arm: str, client: str, rounds: int) -> dict[str, Tensor] | None:
    """The adapter a client kept for itself.

    Args:
        store: clients' state.
        arm: the arm of the run.
        client: the client's name.
        rounds: rounds trained so far.

    Returns:
        Its adapter, or None where it never trained.
    """
    stored = store.load(arm, client, rounds + 1)
    return None if stored is None else _with_prefix(stored, ADAPTER)


def _update(task: _Task, result: ClientResult, broadcast: Mapping[str, Tensor], adapter_bytes: int) -> Update:
    return Update(
        client=result.client,
        delta={name: value - broadcast[name] for name, value in result.adapter.items()},
        num_examples=len(task.examples),
        metrics={
            "loss": result.loss,
            "tokens": result.tokens,
            "label_tokens": result.label_tokens,
            "steps": result.steps,
            "bytes_up": adapter_bytes,
            "bytes_down": adapter_bytes,
        },
    )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
