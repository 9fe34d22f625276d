"""Results of an arm: each client on its own test split, everyone on the global test set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.federated import FederatedData
from fedloom.data.shards import ExampleSet
from fedloom.data.splits import Split
from fedloom.errors import UserError
from fedloom.evaluation.preference_scoring import PreferenceScores, score_preferences
from fedloom.evaluation.score_summary import LISTED_CLIENTS, MEASURES, Result, ScoreSummary
from fedloom.evaluation.scoring import Scores, score
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.randomness import numpy_generator
from fedloom.recipe import Recipe
from fedloom.recipe.schema import EvaluationConfig

# Personal adapters scored in one pass.
ADAPTERS_AT_ONCE = 16
# A matrix with more rows is nobody's reading, and every evaluation would carry it.
CROSS_CLIENTS = 32


class Evaluator:
    """Scores adapters on the run's test data.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        recipe: the run; `evaluation` says what to measure.
        data: the clients' data, see `check_examples`.
        lanes: in which passes run side by side.
        reference: the adapter that preferences are compared with; None for other tasks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grouped: GroupedAdapter[Any],
        recipe: Recipe,
        data: FederatedData,
        lanes: Lanes,
        reference: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.model = model
        self.grouped = grouped
        self.lanes = lanes
        self.reference = reference
        self.task = recipe.task
        self.config = recipe.evaluation
        self.seed = recipe.seed
        self.exact_match = recipe.measures_accuracy
        self.data = data
        split = self.config.split
        # Rows, eight bytes a client: its name and its examples are looked up when it is its turn.
        self.own = self._drawn(data.holders(split), "evaluation_clients")
        self.unseen = self._drawn(data.holders("test", unseen=True), "evaluation_unseen_clients")
        held_out = data.global_examples(split)
        self.held_out = None if held_out is None else self._capped(held_out, "")

    def shared(self, adapter: Mapping[str, Tensor]) -> Result:
        """Evaluate one adapter for everybody.

        Args:
            adapter: fp32 tensors under PEFT's names.

        Returns:
            loss, accuracy (where answers are checkable, and of classification), macro_f1 and matthews (of
            classification), of preferences what `PreferenceScores.measures` gives, and the blocks own, global, unseen,
            clients, categories; above `LISTED_CLIENTS` clients, quantiles within own take the place of clients.
        """
        own, unseen, held_out = self._summary(), self._summary(), self._summary(same_examples=True)

        def tests() -> Iterator[tuple[ScoreSummary, ExampleSet]]:
            yield from ((own, self._examples(row, self.config.split)) for row in self.own)
            yield from ((unseen, self._examples(row, "test")) for row in self.unseen)
            if self.held_out is not None:
                yield held_out, self.held_out

        self._score([adapter], ((0, *test) for test in tests()))
        return self._result(own, unseen, held_out)

    def personal(self, adapter_of: Callable[[str], Mapping[str, Tensor]]) -> Result:
        """Evaluate every client's own adapter; the global block is the mean over clients.

        Args:
            adapter_of: a client's adapter by its name.

        Returns:
            As `shared`; unseen clients have no adapter of their own and do not appear. Where evaluation.cross says so,
            also the block cross: client whose adapter it is -> client whose test it is -> measures, examples.
        """
        own, held_out = self._summary(), self._summary(same_examples=True)
        # Without tests of their own, clients are compared on the global one.
        rows = self.own if len(self.own) else self._drawn(self.data.holders("train"), "evaluation_clients")
        at_once = ADAPTERS_AT_ONCE if self.grouped.cohorts else 1
        for first in range(0, len(rows), at_once):
            some = rows[first : first + at_once]
            tests: list[tuple[int, ScoreSummary, ExampleSet]] = []
            for group, row in enumerate(some):
                if len(self.own):
                    tests.append((group, own, self._examples(row, self.config.split)))
                if self.held_out is not None:
                    tests.append((group, held_out, self.held_out))
            self._score([adapter_of(self.data.client_at(row)) for row in some], tests)
        result = self._result(own, self._summary(), held_out)
        return result | {"cross": self._cross(adapter_of)} if self.config.cross else result

    def _cross(self, adapter_of: Callable[[str], Mapping[str, Tensor]]) -> Result:
        names = [self.data.client_at(row) for row in self.own]
        found: Result = {}
        for name in names:
            on = self._summary()
            self._score([adapter_of(name)], ((0, on, self._examples(row, self.config.split)) for row in self.own))
            found[name] = {other: on.single(place) for place, other in enumerate(names)}
        return found

    def _score(
        self, adapters: Sequence[Mapping[str, Tensor]], tests: Iterable[tuple[int, ScoreSummary, ExampleSet]]
    ) -> None:
        """Score sets, each under one of the adapters, and fold the scores into the summary each belongs to."""
        self.grouped.change_base(adapters[0])
        summaries: deque[ScoreSummary] = deque()

        def jobs() -> Iterator[tuple[int, ExampleSet]]:
            for group, summary, examples in tests:
                summaries.append(summary)
                yield group, examples

        for scores in self._scores(adapters, jobs()):
            summaries.popleft().add(scores)

    def _scores(
        self, adapters: Sequence[Mapping[str, Tensor]], jobs: Iterable[tuple[int, ExampleSet]]
    ) -> Iterator[Scores | PreferenceScores]:
        model, grouped, lanes = self.model, self.grouped, self.lanes
        if self.reference is None:
            return score(model, grouped, lanes, adapters, jobs)
        longest = self.data.longest
        return score_preferences(model, grouped, lanes, adapters, self.reference(), self.task, longest, jobs)

    def _summary(self, same_examples: bool = False) -> ScoreSummary:
        return ScoreSummary(self.exact_match, same_examples)

    def _result(self, own: ScoreSummary, unseen: ScoreSummary, held_out: ScoreSummary) -> Result:
        blocks = {"own": own, "unseen": unseen, "global": held_out}
        result: Result = {name: summary.mean() for name, summary in blocks.items() if len(summary)}
        main = result["global"] if held_out else result["own"]
        result = {key: main[key] for key in MEASURES if key in main} | result
        if len(own) > LISTED_CLIENTS:
            result["own"]["quantiles"] = own.quantiles()
        else:
            names = map(self.data.client_at, self.own)
            result["clients"] = {client: own.single(place) for place, client in enumerate(names)}
        categories = None if self.held_out is None else self.held_out.categories
        if self.exact_match and held_out and categories is not None:
            result["categories"] = held_out.by_category(categories)
        return result

    def _drawn(self, rows: NDArray[np.int64], purpose: str) -> NDArray[np.int64]:
        limit = self.config.max_clients
        if limit is None or len(rows) <= limit:
            return rows
        # The same clients in every evaluation of every arm, or results could not be compared.
        chosen = numpy_generator(self.seed, purpose).choice(len(rows), limit, replace=False)
        return rows[np.sort(chosen)]

    def _examples(self, row: int, split: Split) -> ExampleSet:
        return self._capped(self.data.examples_at(row, split), self.data.client_at(row))

    def _capped(self, examples: ExampleSet, client: str) -> ExampleSet:
        limit = self.config.max_examples
        if limit is None or len(examples) <= limit:
            return examples
        chosen = numpy_generator(self.seed, "evaluation", 0, client).permutation(len(examples))[:limit]
        return examples.subset(np.sort(chosen))


def check_cross(data: FederatedData, config: EvaluationConfig) -> None:
    """Check that there are clients to compare crosswise, and not too many, before any weight is read.

    Args:
        data: the clients' data.
        config: the recipe's evaluation section.

    Raises:
        UserError: where fewer than two or more than `CROSS_CLIENTS` clients are tested.
    """
    if not config.cross:
        return
    holders = len(data.holders(config.split))
    tested = holders if config.max_clients is None else min(holders, config.max_clients)
    if tested < 2:
        raise UserError(f"evaluation.cross has no effect: {tested} client has {config.split} examples of its own")
    if tested > CROSS_CLIENTS:
        raise UserError(
            f"evaluation.cross: {tested} tested clients are more than {CROSS_CLIENTS}",
            hint=f"set evaluation.max_clients to {CROSS_CLIENTS} at most",
        )


def check_examples(data: FederatedData, split: Literal["validation", "test"]) -> None:
    """Check that there is something to evaluate on, before any weight is read.

    Args:
        data: the clients' data.
        split: the recipe's evaluation.split.

    Raises:
        UserError: where there is nothing.
    """
    if data.global_examples(split) is None and not len(data.holders(split)):
        raise UserError(
            f"evaluation.split: no client has {split} examples and there is no data.global_test",
            hint=f"raise data.split.{split}",
        )
