"""The default runtime: cohorts of clients trained in this process, each cohort in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from fedloom.aggregation import Update
from fedloom.data.shards import ExampleSet
from fedloom.model.grouped_lora import GroupedLora
from fedloom.recipe import Recipe
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.cohort_size import CohortSizer
from fedloom.training.batches import round_batches
from fedloom.training.cohort import ClientResult, ClientWork, train_cohort
from fedloom.training.optimizers import local_optimizer
from fedloom.wire.encoding import encode

ADAPTER, MOMENTS = "adapter/", "optimizer/"


class InProcessRuntime:
    """Trains a plan's clients over one base model held in this process.

    Args:
        model: the frozen base.
        lora: its grouped adapters.
        recipe: the run.
        train_examples: a client's training examples by its name.
        store: clients' state from round to round.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        lora: GroupedLora,
        recipe: Recipe,
        train_examples: Callable[[str], ExampleSet],
        store: ClientStore,
    ) -> None:
        self.model = model
        self.lora = lora
        self.recipe = recipe
        self.train_examples = train_examples
        self.store = store
        self.sizer = CohortSizer(model, lora, recipe.runtime)

    def train(self, plan: RoundPlan, broadcast: Mapping[str, Tensor]) -> Iterator[Update]:
        """Train the plan's clients, cohort by cohort; see `Runtime`."""
        adapter_bytes = len(encode(broadcast))
        work: list[ClientWork] = []
        for client in plan.clients:
            item = self._work(plan, client, broadcast)
            if work and not self.sizer.fits([*work, item]):
                yield from self._train_cohort(plan, work, broadcast, adapter_bytes)
                work = []
            work.append(item)
        yield from self._train_cohort(plan, work, broadcast, adapter_bytes)

    def _work(self, plan: RoundPlan, client: str, broadcast: Mapping[str, Tensor]) -> ClientWork:
        examples = self.train_examples(client)
        batches = round_batches(len(examples), self.recipe.local, plan.batch_size, self.recipe.seed, plan.round, client)
        stored = self.store.load(plan.arm, client, plan.round) if plan.personal else None
        if stored is None:
            return ClientWork(client, examples, batches, dict(broadcast))
        return ClientWork(client, examples, batches, _with_prefix(stored, ADAPTER), _with_prefix(stored, MOMENTS))

    def _train_cohort(
        self,
        plan: RoundPlan,
        work: list[ClientWork],
        broadcast: Mapping[str, Tensor],
        adapter_bytes: int,
    ) -> Iterator[Update]:
        local = self.recipe.local
        results = train_cohort(
            self.model,
            self.lora,
            work,
            local_optimizer(local),
            plan.learning_rate,
            local.max_gradient_norm,
            plan.round,
        )
        for item, result in zip(work, results, strict=True):
            if plan.personal:
                self._keep(plan, result)
            yield Update(
                client=result.client,
                delta={name: value - broadcast[name] for name, value in result.adapter.items()},
                num_examples=len(item.examples),
                metrics={
                    "loss": result.loss,
                    "tokens": result.tokens,
                    "label_tokens": result.label_tokens,
                    "steps": result.steps,
                    "bytes_up": adapter_bytes,
                    "bytes_down": adapter_bytes,
                },
            )

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


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
