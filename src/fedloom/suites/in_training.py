"""Suites during training (`evaluation.suites`): the federation's adapter at rounds, and the base before the first.

The process that runs the loop asks alone, between rounds. It draws nothing and keeps nothing that training would see.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedloom.checkpoint import RunState
from fedloom.errors import UserError
from fedloom.model.base import load_tokenizer
from fedloom.recipe import Recipe
from fedloom.report.events import EventLog
from fedloom.runtime.distributed import DistributedRuntime
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.session import Session
from fedloom.suites.catalogue import choose
from fedloom.suites.kinds.base import Options
from fedloom.suites.kinds.dialogue import DialogueTask
from fedloom.suites.results import summarise
from fedloom.suites.run import Examination, examine
from fedloom.suites.sources import Place, check_place
from fedloom.suites.subject import Bench, Subject, check_evaluable

KEY = "evaluation.suites"
# Of a result, what the log keeps: categories of every round would outweigh everything else in it.
LOGGED = ("score", "standard_error", "n", "measures", "flags")


@dataclass(frozen=True)
class TrainingSuites:
    """What is asked while a run trains.

    Args:
        examinations: the tasks and their items.
        every: also after every so many rounds; None: at the end only.
    """

    examinations: Sequence[Examination]
    every: int | None

    def due(self, number: int) -> bool:
        """Whether a round is one of those after which the adapter is tested.

        Args:
            number: of the round.
        """
        return self.every is not None and number % self.every == 0

    def record(self, log: EventLog, state: RunState, session: Session, arm: str, adapter: Mapping[str, Tensor]) -> None:
        """Test an adapter, log it as event `suites`, and put it beside the arm's result; without tasks, nothing.

        Args:
            log: the event log.
            state: where the run stands; the seconds count among its own.
            session: what the run works with.
            arm: base, start or federated.
            adapter: fp32 tensors, and what an algorithm sends beside them.
        """
        if not self.examinations:
            return
        began = time.perf_counter()
        subject = Subject("base" if arm == "base" else "adapter", _bench(session), adapter)
        tasks: dict[str, Any] = {}
        for one in self.examinations:
            result = summarise(one.task, one.kind, list(one.kind.outcomes(one.task, one.items, subject)))
            tasks[one.task.name] = {
                "measure": one.task.score,
                **{key: result[key] for key in LOGGED if key in result},
            }
        seconds = time.perf_counter() - began
        state.totals["seconds"] += seconds
        if arm in state.results:
            state.results[arm] = {**state.results[arm], "suites": tasks}
        log.append("suites", arm=arm, round=state.round, seconds=seconds, tasks=tasks)


def suites_of(recipe: Recipe) -> TrainingSuites:
    """What a recipe wants asked while it trains; no model is loaded.

    Args:
        recipe: the run.

    Returns:
        The tasks with their items; none where it wants nothing.

    Raises:
        UserError: for a name that there is not, a file that is missing, and runs that suites can't test.
    """
    config = recipe.evaluation.suites
    if config is None:
        return TrainingSuites((), None)
    check_evaluable(recipe, KEY)
    place, key = Place(Path(config.data).expanduser()), f"{KEY}.data"
    tasks = choose(config.names, f"{KEY}.names")
    for task in tasks:
        if isinstance(task, DialogueTask):
            raise UserError(
                f"{KEY}.names: answers to {task.name} are scored by a judge, and a run in training asks none",
                hint="`fedloom evaluate DIR --suite` takes --judge",
            )
    check_place(place, key)
    return TrainingSuites([examine(task, place, config.limit, Options(), key) for task in tasks], config.every)


def _bench(session: Session) -> Bench:
    runtime = session.runtime.in_process if isinstance(session.runtime, DistributedRuntime) else session.runtime
    assert isinstance(runtime, InProcessRuntime)
    tokenizer = load_tokenizer(session.recipe.model)
    return Bench(session.recipe, session.model, session.grouped, tokenizer, runtime.lanes)
