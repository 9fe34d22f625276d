"""The loop. A run is a few arms, an arm is a loop over rounds, and a round is: plan, train, step, record, commit."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from fedloom.aggregation import Algorithm
from fedloom.arms import Arm
from fedloom.beginning import adapter_at_start, check_same_beginning, check_same_data, check_same_start, first_event
from fedloom.checkpoint import RunState, load_checkpoint, save_checkpoint
from fedloom.model.adapter_folder import export_adapter
from fedloom.model.start import start_of
from fedloom.recipe import Recipe
from fedloom.report.cross import cross_rows
from fedloom.report.events import EventLog
from fedloom.run_directory import ADAPTER, CHECKPOINTS, EVENTS, METRICS, RunDirectory, write_json
from fedloom.runtime import RoundPlan
from fedloom.runtime.tally import Tally
from fedloom.session import Session
from fedloom.stopping import require_finite, settled, spent
from fedloom.suites.in_training import TrainingSuites, suites_of
from fedloom.wire.encoding import in_order

Listener = Callable[[dict[str, Any]], None]
# Of a round's event and of the totals: seconds that passed on the recipe's simulated clock only.
SIMULATED = "simulated_seconds"
# Given the rounds of every arm, something that listens to events while it is open.
Observer = Callable[[dict[str, int]], AbstractContextManager[Listener]]
# Given a recipe and its run directory, what the run works with and what it trains.
Opener = Callable[[Recipe, Path], tuple[Session, list[Arm]]]


def train(directory: RunDirectory, observer: Observer, opener: Opener) -> dict[str, Any]:
    """Carry a run to its end, from the beginning or from its newest checkpoint.

    Args:
        directory: the open run directory.
        observer: is told of every event.
        opener: brings together what the run works with.

    Returns:
        The run's metrics, as written to `metrics.json`.
    """
    began = time.perf_counter()
    state = load_checkpoint(directory.path / CHECKPOINTS)
    if state is not None:
        check_same_beginning(directory.recipe, directory.path)
    suites = suites_of(directory.recipe)
    session, arms = opener(directory.recipe, directory.path)
    data_seconds = time.perf_counter() - began
    log = EventLog(directory.path / EVENTS)
    arms = _within_budget(arms, state)
    with observer({arm.name: arm.rounds for arm in arms}) as listener:
        log.add_listener(listener)
        if state is None:
            state = _begin(session, arms[0], log, data_seconds, suites)
            _commit(directory.path, log, state)
        else:
            check_same_data(session.data, directory.path)
            # What a killed round had logged is cut off: it will happen again, in the same way.
            log.truncate(state.events)
        while True:
            run_arm(directory.path, session, arms[state.arm], log, state, suites)
            arms = _within_budget(arms, state)
            if state.stop and state.arm == 0:
                log.append("stop", **state.stop, rounds={arm.name: arm.rounds for arm in arms})
            if state.arm + 1 == len(arms):
                break
            check_same_start(directory.recipe, directory.path)
            _next_arm(session, arms, state)
            _commit(directory.path, log, state)
        log.append("end", seconds=state.totals["seconds"])
    metrics = _metrics(session, state)
    write_json(directory.path / METRICS, metrics)
    return metrics


def run_arm(path: Path, session: Session, arm: Arm, log: EventLog, state: RunState, suites: TrainingSuites) -> None:
    """The loop over rounds, up to the last or to the first in which a rule of federation.stop holds.

    Args:
        path: the run directory.
        session: what the run works with.
        arm: what is trained.
        log: the event log.
        state: where the run stands; brought forward in place and committed after every round.
        suites: benchmarks that the federation is tested on, too.
    """
    every, federated = session.recipe.evaluation.every, arm.name == "federated"
    rules = session.recipe.federation.stop if federated else None
    for number in range(state.round + 1, arm.rounds + 1):
        began = time.perf_counter()
        plan, algorithm, tally = arm.plan(number, state.algorithm), arm.algorithm, Tally()
        updates = tally.watch(session.runtime.train(plan, _broadcast(algorithm, state), algorithm))
        adapter, own = algorithm.step(state.adapter, state.algorithm, updates)
        state.adapter, state.algorithm = in_order(adapter), in_order(own)
        state.round = number
        _record(log, state, plan, tally, time.perf_counter() - began)
        stop, last = spent(rules, state.totals), number == arm.rounds
        if stop or last or (every is not None and number % every == 0):
            began = time.perf_counter()
            result = arm.evaluate(_broadcast(algorithm, state), number)
            _record_result(log, state, arm.name, result, time.perf_counter() - began)
            stop = stop or settled(rules, result, state.losses)
        if federated and (stop or last or suites.due(number)):
            suites.record(log, state, session, arm.name, _broadcast(algorithm, state))
        if stop:
            state.stop = {"round": number, **stop}
        if federated and (stop or last):
            whole = _broadcast(algorithm, state)
            export_adapter(path / ADAPTER, whole, session.model, session.grouped, session.recipe.model)
        session.data.release()
        _commit(path, log, state)
        if stop:
            break


def first_state(session: Session, first: Arm, data_seconds: float = 0.0) -> RunState:
    """The state before the first round: the adapter that all arms start from, nothing evaluated.

    Args:
        session: what the run works with.
        first: the arm that is trained first.
        data_seconds: what preparing the data has taken.

    Returns:
        Where `run_arm` goes on from.
    """
    adapter = in_order(first.algorithm.prepared(adapter_at_start(session)))
    totals = {"seconds": data_seconds, "bytes_up": 0, "bytes_down": 0, "tokens": 0, "rejected": 0}
    return RunState(adapter=adapter, algorithm=in_order(first.algorithm.init(adapter)), totals=totals)


def _broadcast(algorithm: Algorithm, state: RunState) -> dict[str, Tensor]:
    """What the server sends: the adapter, and what the algorithm sends beside it."""
    return {**state.adapter, **algorithm.sent(state.algorithm)}


def _begin(session: Session, first: Arm, log: EventLog, data_seconds: float, suites: TrainingSuites) -> RunState:
    """The state before the first round: the untuned base evaluated, and an adapter that was trained before."""
    log.truncate(0)
    log.append("start", **first_event(session), data_seconds=data_seconds)
    state, grouped, fresh = first_state(session, first, data_seconds), session.grouped, None
    if session.layers is not None:
        log.append("layers", **session.layers.event())
        for key in ("bytes_up", "bytes_down"):
            state.totals[key] += getattr(session.layers, key)
    if start_of(session.recipe.model.adapter) is not None:
        fresh = in_order(first.algorithm.prepared(grouped.initial(session.recipe.seed)))
    first_ones = {"base": grouped.untuned(fresh or state.adapter), **({"start": state.adapter} if fresh else {})}
    for arm, adapter in first_ones.items():
        began = time.perf_counter()
        _record_result(log, state, arm, first.evaluate(adapter, 0), time.perf_counter() - began)
        suites.record(log, state, session, arm, adapter)
    return state


def _within_budget(arms: list[Arm], state: RunState | None) -> list[Arm]:
    """Baselines are given the rounds that the federation really took."""
    stop = None if state is None else state.stop
    return arms if stop is None else [arm.within(stop["round"]) for arm in arms]


def _next_arm(session: Session, arms: list[Arm], state: RunState) -> None:
    """Every arm starts where the federation started, same seed, same first adapter, or where it ended."""
    state.arm, state.round = state.arm + 1, 0
    if not arms[state.arm].continues:
        state.adapter = in_order(adapter_at_start(session))
    state.algorithm = in_order(arms[state.arm].algorithm.init(state.adapter))


def _record(log: EventLog, state: RunState, plan: RoundPlan, tally: Tally, seconds: float) -> None:
    state.totals["seconds"] += seconds
    numbers: dict[str, Any] = {"loss": tally.loss, "tokens": tally.tokens, "train_seconds": tally.train_seconds}
    if tally.process_seconds:
        numbers["process_seconds"] = tally.process_seconds
    if tally.curriculum_examples:
        numbers["examples_share"] = tally.curriculum_examples / tally.examples
        numbers["curriculum_tokens"] = tally.curriculum_tokens
    if plan.arm != "federated":
        log.append("baseline_round", arm=plan.arm, round=state.round, **numbers)
        return
    for key in ("bytes_up", "bytes_down", "tokens"):
        state.totals[key] += getattr(tally, key)
    if tally.curriculum_tokens:
        state.totals["curriculum_tokens"] = state.totals.get("curriculum_tokens", 0) + tally.curriculum_tokens
    simulated: dict[str, Any] = {"missing": plan.missing} if plan.missing else {}
    if plan.versions:
        simulated["staleness"] = {client: plan.round - 1 - version for client, version in plan.versions.items()}
    if plan.simulated_seconds is not None:
        simulated[SIMULATED] = plan.simulated_seconds
        state.totals[SIMULATED] = state.totals.get(SIMULATED, 0.0) + plan.simulated_seconds
    if plan.simulated_waiting_seconds is not None:
        simulated["simulated_waiting_seconds"] = plan.simulated_waiting_seconds
    if plan.simulated_clients:
        simulated["simulated_clients"] = plan.simulated_clients
    log.append(
        "round",
        round=state.round,
        clients=list(tally.losses),
        **numbers,
        aggregate_seconds=seconds - tally.train_seconds,
        bytes_up=tally.bytes_up,
        bytes_down=tally.bytes_down,
        client_losses=tally.losses,
        **({"rejected": tally.rejected} if tally.rejected else {}),
        **simulated,
    )
    state.totals["rejected"] += len(tally.rejected)


def _record_result(log: EventLog, state: RunState, arm: str, result: dict[str, Any], seconds: float) -> None:
    require_finite(arm, state.round, result)
    state.results[arm] = result
    if arm in {"base", "start", "federated"}:
        # What rounds have to be better than is where they started.
        state.losses = [*([] if arm == "start" else state.losses), result["loss"]]
    state.totals["seconds"] += seconds
    log.append("evaluation", arm=arm, round=state.round, seconds=seconds, result=result)


def _commit(path: Path, log: EventLog, state: RunState) -> None:
    state.events = log.position
    save_checkpoint(path / CHECKPOINTS, state)


def _metrics(session: Session, state: RunState) -> dict[str, Any]:
    recipe, results = session.recipe, dict(state.results)
    matrix = {"cross": cross_rows(state.results)} if recipe.evaluation.cross else {}
    # A comparison's baselines are runs whose federation has no rounds, and so no result.
    federated = {"eval": results.pop("federated")} if "federated" in results else {}
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "rounds": state.stop["round"] if state.stop else recipe.federation.rounds,
        **({"stop": state.stop} if state.stop else {}),
        **state.totals,
        **matrix,
        **federated,
        "baselines": results,
    }
