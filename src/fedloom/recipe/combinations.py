"""Combinations of options that make no sense together, refused with the reason before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedloom.recipe.participation_schema import check_concurrency

if TYPE_CHECKING:
    from fedloom.aggregation import Algorithm
    from fedloom.recipe.schema import Recipe


def check_combinations(recipe: Recipe) -> None:
    """Check what a recipe's sections ask of its algorithm.

    Args:
        recipe: its sections, each of them checked by itself.

    Raises:
        ValueError: for the first combination that is refused.
    """
    federation = recipe.federation
    name, parameters = federation.algorithm.name, federation.algorithm.parameters
    fine_tuned = any(baseline.kind == "fine_tuned" for baseline in recipe.baselines)
    if not isinstance(recipe.model.adapter.rank, int) or federation.private or fine_tuned:
        # Not at the top: the algorithms import torch, which takes seconds.
        from fedloom.aggregation.registry import ALGORITHMS, algorithm_class

        found = algorithm_class(name)
        if not isinstance(recipe.model.adapter.rank, int) and not found.mixed_ranks:
            able = ", ".join(other for other in ALGORITHMS if algorithm_class(other).mixed_ranks)
            raise ValueError(
                f"model.adapter.rank: {name} averages factors of one rank; different ranks need one of: {able}"
            )
        if federation.private:
            _check_private(recipe, found, ALGORITHMS[name].startswith("lora."))
        if fine_tuned:
            _check_fine_tuned(recipe, found)
    if name == "fedbuff":
        federation.participation.check_asynchronous()
        clients = getattr(recipe.data.partition, "clients", None)
        if clients is not None:
            check_concurrency(
                federation.clients_per_round, parameters["buffer_size"], clients - recipe.data.unseen_clients
            )
    if name in {"krum", "multi_krum"}:
        needed = 2 * parameters["byzantine_clients"] + 3
        if federation.clients_per_round < needed:
            raise ValueError(
                f"federation.algorithm.byzantine_clients: {parameters['byzantine_clients']} needs {needed} clients a "
                f"round, federation.clients_per_round is {federation.clients_per_round}"
            )
        if parameters.get("kept_clients", 1) > federation.clients_per_round:
            raise ValueError(
                f"federation.algorithm.kept_clients: {parameters['kept_clients']} is above "
                f"federation.clients_per_round, {federation.clients_per_round}"
            )


def _check_private(recipe: Recipe, algorithm: type[Algorithm], of_factors: bool) -> None:
    name, patterns = recipe.federation.algorithm.name, recipe.federation.private
    if algorithm.personal_adapters:
        raise ValueError(f"federation.private: with {name} each client has a whole adapter of its own already")
    if name == "fed_sb":
        raise ValueError("federation.private: fed_sb trains one small matrix of every layer, for all clients")
    if of_factors and any("lora_" in pattern for pattern in patterns):
        raise ValueError(f"federation.private: {name} says itself which factor travels; name whole layers")


def _check_fine_tuned(recipe: Recipe, algorithm: type[Algorithm]) -> None:
    name = recipe.federation.algorithm.name
    if algorithm.changes_base:
        raise ValueError(f"baselines: fine_tuned goes on from an adapter, and {name} changes the base model")
    if recipe.federation.private or algorithm.shared != "both":
        raise ValueError("baselines: fine_tuned has no effect of its own where clients keep a part of the adapter")
