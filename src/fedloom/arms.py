"""The arms of a run: the federation and the baselines it is compared with, all trained by the same loop.

federated     clients_per_round clients start from the server's adapter; the algorithm folds their updates into it
local         every client alone, going on from its own adapter, with its expected share of the budget
centralized   one client that owns all data, with as many steps and as many examples as the federation
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fedloom.aggregation import Algorithm, State, Tensors, algorithm
from fedloom.aggregation.fedbuff import FedBuff
from fedloom.aggregation.kept_units import MeanOfKept
from fedloom.aggregation.no_exchange import NoExchange
from fedloom.aggregation.past_versions import PastVersions
from fedloom.aggregation.registry import run_parameters
from fedloom.aggregation.wrapped import PartlyPrivate
from fedloom.model.tensor_names import names_in_layers, private_names
from fedloom.model.units import find_blocks, ties_of
from fedloom.recipe import Recipe
from fedloom.recipe.adapter_schema import LowRank
from fedloom.recipe.pruning_schema import prunes
from fedloom.runtime import RoundPlan
from fedloom.runtime.exchange import personal_adapter
from fedloom.session import POOLED, Session
from fedloom.timetable import Timetable
from fedloom.training.curriculum import planned_share
from fedloom.training.schedule import learning_rate


@dataclass(frozen=True)
class Arm:
    """One course of training within a run.

    Args:
        name: federated, fine_tuned, local or centralized.
        rounds: how many.
        plan: the plan of a round, by its number and the algorithm's state.
        algorithm: folds updates into the shared adapter.
        evaluate: the arm's result after so many rounds, given the shared adapter and what is sent beside it.
        continues: it starts from the adapter that the arm before has ended with.
        share: its rounds as a share of the federation's; None: it has a number of its own.
    """

    name: str
    rounds: int
    plan: Callable[[int, State], RoundPlan]
    algorithm: Algorithm
    evaluate: Callable[[Tensors, int], dict[str, Any]]
    continues: bool = False
    share: float | None = 1.0

    def within(self, rounds: int) -> Arm:
        """The arm with the budget of a federation that took fewer rounds than planned.

        Args:
            rounds: of the federation.

        Returns:
            The same arm, ending earlier; its schedule is that of the planned rounds, as the federation's was.
        """
        return self if self.share is None else replace(self, rounds=rounds_of(self.share, rounds))


def rounds_of(share: float, federated: int) -> int:
    """The rounds of an arm that has a share of the federation's, one at least."""
    return max(1, round(federated * share))


def local_share(recipe: Recipe, clients: int) -> float:
    """The share of the baseline `local`: alone, a client does what it would do on average in the federation."""
    return recipe.federation.clients_per_round / clients


def build_arms(session: Session) -> list[Arm]:
    """The arms of a run, in the order in which they are trained.

    Args:
        session: what the run works with.

    Returns:
        The federation, then the recipe's baselines.
    """
    recipe, clients = session.recipe, session.data.clients
    federation, local = recipe.federation, recipe.local
    arms = [_federated(session, clients)]
    # What goes on from the federation's adapter comes right after it.
    for baseline in sorted(recipe.baselines, key=lambda baseline: baseline.kind != "fine_tuned"):
        rate = baseline.learning_rate or local.learning_rate
        if baseline.kind == "fine_tuned":
            rounds = baseline.rounds or 1
            arms.append(_baseline(session, "fine_tuned", clients, rounds, None, local.batch_size, rate))
        elif baseline.kind == "local":
            share = local_share(recipe, len(clients))
            rounds = rounds_of(share, federation.rounds)
            arms.append(_baseline(session, "local", clients, rounds, share, local.batch_size, rate))
        else:
            batch_size = local.batch_size * federation.clients_per_round
            arms.append(_baseline(session, "centralized", [POOLED], federation.rounds, 1.0, batch_size, rate))
    return arms


def _federated(session: Session, clients: Sequence[str]) -> Arm:
    recipe, federation = session.recipe, session.recipe.federation
    chosen = _algorithm(session)
    asynchronous = isinstance(chosen, FedBuff)
    private = private_names(session.grouped.shapes, chosen.shared, federation.private)
    # A comparison's baselines need no federation's layers; see `comparison.workshop`.
    others = session.layers.others if session.layers is not None else ()
    trains_others = federation.layers is not None and federation.layers.others == "private"
    apart = names_in_layers(session.grouped.shapes, others)
    pruning = recipe.local.pruning if prunes(recipe) else None
    if pruning is not None:
        chosen = MeanOfKept(chosen, ties_of(find_blocks(session.model), session.grouped.shapes))
    if federation.private or apart:
        named = private_names(session.grouped.shapes, "both", federation.private)
        chosen = PartlyPrivate(chosen, (named | apart).__contains__)
    timetable = cache(lambda: Timetable(session, clients, chosen, asynchronous, private | apart))
    if asynchronous:
        chosen = PastVersions(chosen, lambda number: timetable().oldest_needed(number))

    def plan(number: int, state: State) -> RoundPlan:
        draft = RoundPlan(
            "federated",
            number,
            (),
            learning_rate(recipe.local, recipe.local.learning_rate, number, federation.rounds),
            recipe.local.batch_size,
            trained=chosen.trained(state),
            fetched=chosen.fetched(state),
            private_layers=others if trains_others else (),
            frozen_layers=() if trains_others else others,
            data_share=planned_share(recipe.local.curriculum, number, federation.rounds),
        )
        filled = timetable().filled(draft, chosen.sent(state))
        sparse = _sparse_shares(session, filled.clients) if private or others else {}
        if pruning is None or federation.participation.wireless is not None:
            return replace(filled, sparse=sparse)
        return replace(filled, sparse=sparse, prune_rates={name: pruning.rate_of(name) for name in filled.clients})

    def evaluate(adapter: Tensors, done: int) -> dict[str, Any]:
        def own(client: str) -> Tensors:
            return {**adapter, **personal_adapter(session.store, "federated", client, done)}

        if private:
            # Nobody uses the shared part alone.
            return session.evaluator.personal(own)
        result = session.evaluator.shared(adapter)
        if chosen.personal_adapters or trains_others:
            personal = session.evaluator.personal(own)
            result["personal"] = {**personal["own"], "clients": personal.get("clients", {})}
            result |= {key: personal[key] for key in ("cross",) if key in personal}
        return result

    return Arm("federated", federation.rounds, plan, chosen, evaluate)


def _sparse_shares(session: Session, clients: Sequence[str]) -> dict[str, float]:
    """The share of neurons that each client trains of what it keeps; empty where all train all of it."""
    sparse = session.recipe.local.sparse
    if sparse is None or sparse.share == 1:
        return {}
    if isinstance(sparse.share, float):
        return dict.fromkeys(clients, sparse.share)
    assert session.layers is not None
    return {client: session.layers.keep_shares[client] for client in clients}


def _algorithm(session: Session) -> Algorithm:
    """The recipe's algorithm, told what it has to know of the run."""
    recipe, data = session.recipe, session.data
    config = recipe.federation.algorithm
    known: dict[str, Callable[[], Any]] = {
        "clients": lambda: len(data.clients),
        "total_examples": lambda: data.totals()["train"],
        "seed": lambda: recipe.seed,
        "scale": lambda: _scale(recipe),
    }
    of_run = {name: known[name]() for name in run_parameters(config.name)}
    return algorithm(config.name, **config.parameters, **of_run)


def _scale(recipe: Recipe) -> float:
    """What the product of LoRA's factors is multiplied by; only asked for by algorithms that know the product."""
    assert isinstance(recipe.model.adapter, LowRank)
    return recipe.model.adapter.scale


def _baseline(
    session: Session,
    name: str,
    clients: Sequence[str],
    rounds: int,
    share: float | None,
    batch_size: int,
    base_rate: float,
) -> Arm:
    def plan(number: int, _: State) -> RoundPlan:
        rate = learning_rate(session.recipe.local, base_rate, number, rounds)
        # What goes on from the federation's adapter has the curriculum behind it.
        curriculum = None if share is None else session.recipe.local.curriculum
        data_share = planned_share(curriculum, number, rounds)
        return RoundPlan(name, number, tuple(clients), rate, batch_size, personal=True, data_share=data_share)

    def evaluate(adapter: Tensors, done: int) -> dict[str, Any]:
        def own(client: str) -> Tensors:
            return personal_adapter(session.store, name, client, done) or adapter

        if name == "centralized":
            return session.evaluator.shared(own(POOLED))
        return session.evaluator.personal(own)

    return Arm(name, rounds, plan, NoExchange(), evaluate, continues=share is None, share=share)
