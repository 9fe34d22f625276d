"""Combinations of options that make no sense together, refused with the reason before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedloom.errors import UserError, nearest
from fedloom.recipe.adapter_schema import DoraConfig, FullConfig, LowRank, RankGroup
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
    if recipe.evaluation.cross:
        _check_cross(recipe)
    _check_kind(recipe)
    ranks = rank_groups(recipe)
    if ranks or federation.private or fine_tuned:
        # Not at the top: the algorithms import torch, which takes seconds.
        from fedloom.aggregation.registry import ALGORITHMS, algorithm_class

        found = algorithm_class(name)
        if ranks and not found.mixed_ranks:
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
    _check_krum(recipe)


def rank_groups(recipe: Recipe) -> list[RankGroup]:
    """The groups of clients with a rank of their own; none where all have one rank, or none."""
    config = recipe.model.adapter
    return config.rank if isinstance(config, LowRank) and not isinstance(config.rank, int) else []


def check_named_clients(recipe: Recipe, clients: Sequence[str]) -> None:
    """Check the names of clients in a recipe, once all of them are known.

    Args:
        recipe: the run.
        clients: names of all training clients.

    Raises:
        UserError: for ranks or pruning rates of clients that there are not.
    """
    for place, group in enumerate(rank_groups(recipe)):
        for client in group.clients or []:
            if client not in clients:
                close = nearest(client, clients)
                raise UserError(
                    f"model.adapter.rank.{place}.clients: {client!r} is no training client",
                    hint=f"did you mean {close!r}?" if close else None,
                )
    pruning = recipe.local.pruning
    for client in pruning.rate if pruning is not None and isinstance(pruning.rate, dict) else ():
        if client not in clients:
            close = nearest(client, clients)
            raise UserError(
                f"local.pruning.rate: {client!r} is no training client",
                hint=f"did you mean {close!r}?" if close else None,
            )


def _check_cross(recipe: Recipe) -> None:
    layers = recipe.federation.layers
    keeps = recipe.federation.private or (layers is not None and layers.others == "private")
    if keeps or any(baseline.kind in {"local", "fine_tuned"} for baseline in recipe.baselines):
        return
    from fedloom.aggregation.registry import algorithm_class

    algorithm = algorithm_class(recipe.federation.algorithm.name)
    if not algorithm.personal_adapters and algorithm.shared == "both":
        raise ValueError(
            "evaluation.cross has no effect: no client has an adapter of its own here; add baselines: [local]"
        )


def _check_kind(recipe: Recipe) -> None:
    """What the kind of adapter can't be combined with."""
    config, name = recipe.model.adapter, recipe.federation.algorithm.name
    if not isinstance(config, LowRank):
        from fedloom.aggregation.registry import ALGORITHMS

        if ALGORITHMS[name].startswith("lora."):
            # DoRA has factors, but what it adds is not their product.
            has = (
                "factors whose product is not what it adds, and magnitudes besides"
                if isinstance(config, DoraConfig)
                else "no factors"
            )
            raise ValueError(
                f"federation.algorithm: {name} works on LoRA's factors A and B (model.adapter.kind lora or rslora); "
                f"{config.kind} has {has}"
            )
    if recipe.model.quantization is not None and isinstance(config, (DoraConfig, FullConfig)):
        needs = "trains the weights" if isinstance(config, FullConfig) else "needs the norms of the weights' rows"
        raise ValueError(f"model.quantization: {config.kind} {needs}, which a quantised base does not hold")
    if isinstance(config, FullConfig):
        _check_full(recipe)


def _check_full(recipe: Recipe) -> None:
    """Of full fine-tuning there is one copy of the model, which one client after another trains."""
    runtime = recipe.runtime
    if runtime.cohort not in ("auto", 1):
        raise ValueError(f"runtime.cohort: {runtime.cohort}, but full fine-tuning trains one client after another")
    if recipe.model.dtype == "bfloat16":
        raise ValueError("model.dtype: full fine-tuning trains the base itself, which it holds in float32")
    if runtime.memory_gb is not None and runtime.activation_checkpointing != "auto":
        raise ValueError("runtime.memory_gb has no effect: full fine-tuning has no cohorts that it could bound")
    if runtime.kind == "distributed" and runtime.threads is None:
        raise ValueError(
            "runtime.threads: is required by full fine-tuning in several processes: its last bits depend on the "
            "number of threads that a process has"
        )


def _check_krum(recipe: Recipe) -> None:
    clients, key = recipe.federation.clients_per_round, "federation.algorithm"
    name, parameters = recipe.federation.algorithm.name, recipe.federation.algorithm.parameters
    if name == "composed" and parameters["rule"] is not None:
        name, parameters, key = parameters["rule"].get("name"), parameters["rule"], f"{key}.rule"
    if name not in {"krum", "multi_krum"}:
        return
    byzantine, kept = parameters["byzantine_clients"], parameters.get("kept_clients", 1)
    needed = 2 * byzantine + 3
    if clients < needed:
        raise ValueError(
            f"{key}.byzantine_clients: {byzantine} needs {needed} clients a round, federation.clients_per_round is "
            f"{clients}"
        )
    if kept > clients:
        raise ValueError(f"{key}.kept_clients: {kept} is above federation.clients_per_round, {clients}")


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
