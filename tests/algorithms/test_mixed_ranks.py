"""Clients of different ranks: what they send has their rank, and what lies beyond it is zero and stays zero."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.aggregation import Update
from fedloom.arms import build_arms
from fedloom.federation import first_state
from fedloom.recipe import load_recipe
from fedloom.recipe.ranks import client_rank
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.session import open_session
from fedloom.training.cohort import ClientResult
from fedloom.wire.encoding import encode
from tests.algorithms.every import Values, settings

NO_PRUNING = {"gamma": 1.0, "lam": 0.0}


def first_round(values: Values, out: Path) -> dict[str, Update]:
    session = open_session(load_recipe(values), out)
    arm = build_arms(session)[0]
    state = first_state(session, arm)
    broadcast = {**state.adapter, **arm.algorithm.sent(state.algorithm)}
    updates = session.runtime.train(arm.plan(1, state.algorithm), broadcast, arm.algorithm)
    return {update.client: update for update in updates}


def rank_of(name: str, tensor: torch.Tensor) -> int:
    return tensor.shape[0 if "lora_A" in name else 1]


@pytest.mark.parametrize("name", ["flora", "flexlora", "hetlora"])
def test_updates_have_their_clients_rank(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[ClientResult] = []
    real = InProcessRuntime._train

    def noted(self: InProcessRuntime, *arguments: Any) -> list[ClientResult]:
        trained.extend(results := real(self, *arguments))
        return results

    monkeypatch.setattr(InProcessRuntime, "_train", noted)
    values = settings(source, name, NO_PRUNING if name == "hetlora" else {})
    updates, config = first_round(values, tmp_path / "run"), load_recipe(values)
    ranks = {client: client_rank(config.model.adapter, config.seed, client) for client in updates}
    assert set(ranks.values()) == {2, 4}
    for result in trained:
        update, rank = updates[result.client], ranks[result.client]
        assert {rank_of(*item) for item in update.delta.items()} == {rank}
        assert update.metrics["bytes_up"] == len(encode(update.delta))
        for tensor_name, value in result.adapter.items():
            beyond = value[rank:] if "lora_A" in tensor_name else value[:, rank:]
            assert not bool(beyond.any())
            assert bool(value.any())
    sizes = {
        rank: {updates[client].metrics["bytes_up"] for client in updates if ranks[client] == rank} for rank in (2, 4)
    }
    assert all(len(of_rank) == 1 for of_rank in sizes.values())
    assert sizes[2].pop() < 0.6 * sizes[4].pop()


def test_a_low_rank_among_higher_ones_trains_as_it_would_alone(source: Path, tmp_path: Path) -> None:
    """The scale is that of the largest rank: 16 / 4 here and 8 / 2 there."""
    mixed = first_round(settings(source, "hetlora", NO_PRUNING), tmp_path / "mixed")
    of_two = {"model": {"adapter": {"rank": 2, "alpha": 8.0}}}
    alone = first_round(settings(source, "hetlora", NO_PRUNING, **of_two), tmp_path / "alone")
    compared = 0
    for client, update in mixed.items():
        if rank_of(*next(iter(update.delta.items()))) == 2:
            compared += 1
            assert update.metrics["loss"] == pytest.approx(alone[client].metrics["loss"], rel=1e-5)
    assert compared


def test_pruned_clients_stay_at_their_new_rank(source: Path, tmp_path: Path) -> None:
    """HetLoRA's own: a client that has lowered its rank is sent, and sends, no more from then on."""
    values = settings(
        source,
        "hetlora",
        {"gamma": 0.5, "lam": 100.0},
        federation={"clients_per_round": 8},
        model={"adapter": {"rank": 4}},
    )
    session = open_session(load_recipe(values), tmp_path)
    arm = build_arms(session)[0]
    state = first_state(session, arm)
    reached: dict[str, list[int]] = {}
    for number in (1, 2, 3):
        updates = list(session.runtime.train(arm.plan(number, state.algorithm), state.adapter, arm.algorithm))
        for update in updates:
            reached.setdefault(update.client, []).append(rank_of(*next(iter(update.delta.items()))))
        state.adapter, state.algorithm = arm.algorithm.step(state.adapter, state.algorithm, updates)
    assert all(ranks == sorted(ranks, reverse=True) for ranks in reached.values())
    assert any(ranks[-1] < 4 for ranks in reached.values())
