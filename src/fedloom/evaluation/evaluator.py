"""Results of an arm: each client on its own test split, everyone on the global test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.federated import FederatedData
from fedloom.data.shards import ExampleSet
from fedloom.errors import UserError
from fedloom.evaluation.scoring import Scores, score
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.lanes import Lanes
from fedloom.randomness import numpy_generator
from fedloom.recipe import Recipe

Result = dict[str, Any]
# Personal adapters scored in one pass.
ADAPTERS_AT_ONCE = 16


class Evaluator:
    """Scores adapters on the run's test data.

    Args:
        model: the frozen base.
        lora: its grouped adapters.
        recipe: the run; `evaluation` says what to measure.
        data: the clients' data, see `check_examples`.
        lanes: in which passes run side by side.
    """

    def __init__(
        self, model: PreTrainedModel, lora: GroupedLora, recipe: Recipe, data: FederatedData, lanes: Lanes
    ) -> None:
        self.model = model
        self.lora = lora
        self.lanes = lanes
        self.config = recipe.evaluation
        self.seed = recipe.seed
        exact = self.config.exact_match
        self.exact_match = data.checkable if exact == "auto" else exact
        split = self.config.split
        self.own = {client: self._capped(data.examples(client, split), client) for client in data.clients}
        self.own = {client: examples for client, examples in self.own.items() if len(examples)}
        self.unseen = {client: self._capped(data.examples(client, "test"), client) for client in data.unseen}
        held_out = data.global_examples(split)
        self.held_out = None if held_out is None else self._capped(held_out, "")

    def shared(self, adapter: Mapping[str, Tensor]) -> Result:
        """Evaluate one adapter for everybody.

        Args:
            adapter: fp32 tensors under PEFT's names.

        Returns:
            loss, accuracy (where answers are checkable), and the blocks own, global, unseen, clients, categories.
        """
        sets = [*self.own.values(), *self.unseen.values()]
        if self.held_out is not None:
            sets.append(self.held_out)
        scores = score(self.model, self.lora, self.lanes, [adapter], [(0, examples) for examples in sets])
        own = dict(zip(self.own, scores, strict=False))
        unseen = dict(zip(self.unseen, scores[len(own) :], strict=False))
        held_out = [] if self.held_out is None else [scores[-1]]
        return self._result(own, unseen, held_out)

    def personal(self, adapter_of: Callable[[str], Mapping[str, Tensor]]) -> Result:
        """Evaluate every client's own adapter; the global block is the mean over clients.

        Args:
            adapter_of: a client's adapter by its name.

        Returns:
            As `shared`; unseen clients have no adapter of their own and do not appear.
        """
        own: dict[str, Scores] = {}
        held_out: list[Scores] = []
        clients = list(self.own)
        for first in range(0, len(clients), ADAPTERS_AT_ONCE):
            some = clients[first : first + ADAPTERS_AT_ONCE]
            adapters = [adapter_of(client) for client in some]
            jobs: list[tuple[int, ExampleSet]] = []
            for group, client in enumerate(some):
                jobs.append((group, self.own[client]))
                if self.held_out is not None:
                    jobs.append((group, self.held_out))
            scores = score(self.model, self.lora, self.lanes, adapters, jobs)
            stride = 1 if self.held_out is None else 2
            own.update(zip(some, scores[::stride], strict=True))
            if self.held_out is not None:
                held_out.extend(scores[1::2])
        return self._result(own, {}, held_out)

    def _result(self, own: Mapping[str, Scores], unseen: Mapping[str, Scores], held_out: Sequence[Scores]) -> Result:
        result: Result = {}
        if own:
            result["own"] = self._mean(list(own.values()))
        if unseen:
            result["unseen"] = self._mean(list(unseen.values()))
        if held_out:
            result["global"] = self._mean(held_out)
            result["global"]["examples"] = len(held_out[0].labels)
        main = result["global"] if held_out else result["own"]
        result = {key: main[key] for key in ("loss", "accuracy") if key in main} | result
        result["clients"] = {client: self._single(scores) for client, scores in own.items()}
        categories = None if self.held_out is None else self.held_out.categories
        if self.exact_match and held_out and categories is not None:
            result["categories"] = _by_category(held_out, categories)
        return result

    def _single(self, scores: Scores) -> Result:
        block: Result = {"loss": scores.loss}
        if self.exact_match:
            block["accuracy"] = scores.accuracy
        return block | {"examples": len(scores.labels)}

    def _mean(self, scores: Sequence[Scores]) -> Result:
        block: Result = {"loss": float(np.mean([s.loss for s in scores]))}
        if self.exact_match:
            block["accuracy"] = float(np.mean([s.accuracy for s in scores]))
        return block | {"examples": int(sum(len(s.labels) for s in scores))}

    def _capped(self, examples: ExampleSet, client: str) -> ExampleSet:
        limit = self.config.max_examples
        if limit is None or len(examples) <= limit:
            return examples
        chosen = numpy_generator(self.seed, "evaluation", 0, client).permutation(len(examples))[:limit]
        return examples.subset(np.sort(chosen))


def check_examples(data: FederatedData, split: Literal["validation", "test"]) -> None:
    """Check that there is something to evaluate on, before any weight is read.

    Args:
        data: the clients' data.
        split: the recipe's evaluation.split.

    Raises:
        UserError: where there is nothing.
    """
    if data.global_examples(split) is None and not any(len(data.examples(c, split)) for c in data.clients):
        raise UserError(
            f"evaluation.split: no client has {split} examples and there is no data.global_test",
            hint=f"raise data.split.{split}",
        )


def _by_category(scores: Sequence[Scores], categories: Sequence[str]) -> Result:
    correct = np.mean([s.correct for s in scores], axis=0)
    names = np.asarray(categories)
    return {
        str(name): {"accuracy": float(correct[names == name].mean()), "examples": int((names == name).sum())}
        for name in sorted(set(categories))
    }
