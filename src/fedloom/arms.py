"""The arms of a run: the federation and the baselines it is compared with, all trained by the same loop.

federated     clients_per_round clients start from the server's adapter; the algorithm folds their updates into it
local         every client alone, going on from its own adapter, with its expected share of the budget
centralized   one client that owns all data, with as many steps and as many examples as the federation
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedloom.aggregation import Algorithm, Tensors, algorithm
from fedloom.aggregation.no_exchange import NoExchange
from fedloom.randomness import numpy_generator
from fedloom.runtime import RoundPlan
from fedloom.runtime.in_process import personal_adapter
from fedloom.session import POOLED, Session
from fedloom.training.schedule import learning_rate


@dataclass(frozen=True)
class Arm:
    """One course of training within a run.

    Args:
        name: federated, local or centralized.
        rounds: how many.
        plan: the plan of a round, by its number.
        algorithm: folds updates into the shared adapter.
        evaluate: the arm's result after so many rounds, given the shared adapter.
    """

    name: str
    rounds: int
    plan: Callable[[int], RoundPlan]
    algorithm: Algorithm
    evaluate: Callable[[Tensors, int], dict[str, Any]]


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
    for baseline in recipe.baselines:
        rate = baseline.learning_rate or local.learning_rate
        if baseline.kind == "local":
            # Alone, a client does what it would do on average in the federation.
            share = federation.clients_per_round / len(clients)
            rounds = max(1, round(federation.rounds * share))
            arms.append(_baseline(session, "local", clients, rounds, local.batch_size, rate))
        else:
            batch_size = local.batch_size * federation.clients_per_round
            arms.append(_baseline(session, "centralized", [POOLED], federation.rounds, batch_size, rate))
    return arms


def _federated(session: Session, clients: Sequence[str]) -> Arm:
    recipe, federation = session.recipe, session.recipe.federation
    parameters = federation.algorithm.model_dump()
    name = parameters.pop("name")

    def plan(number: int) -> RoundPlan:
        generator = numpy_generator(recipe.seed, "clients", number)
        drawn = generator.choice(len(clients), federation.clients_per_round, replace=False)
        return RoundPlan(
            "federated",
            number,
            tuple(sorted(clients[index] for index in drawn)),
            learning_rate(recipe.local, recipe.local.learning_rate, number, federation.rounds),
            recipe.local.batch_size,
        )

    def evaluate(adapter: Tensors, _: int) -> dict[str, Any]:
        return session.evaluator.shared(adapter)

    return Arm("federated", federation.rounds, plan, algorithm(name, **parameters), evaluate)


def _baseline(
    session: Session, name: str, clients: Sequence[str], rounds: int, batch_size: int, base_rate: float
) -> Arm:
    def plan(number: int) -> RoundPlan:
        rate = learning_rate(session.recipe.local, base_rate, number, rounds)
        return RoundPlan(name, number, tuple(clients), rate, batch_size, personal=True)

    def evaluate(adapter: Tensors, done: int) -> dict[str, Any]:
        def own(client: str) -> Tensors:
            return personal_adapter(session.store, name, client, done) or adapter

        if name == "centralized":
            return session.evaluator.shared(own(POOLED))
        return session.evaluator.personal(own)

    return Arm(name, rounds, plan, NoExchange(), evaluate)
