"""What stays with clients: a part of the adapter, or a whole one of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import fedloom
import fedloom.inspection
from fedloom.arms import Arm, build_arms
from fedloom.federation import first_state
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.runtime.exchange import personal_adapter
from fedloom.session import Session, open_session
from fedloom.wire.encoding import encode
from tests.algorithms.every import Values, settings

LAYER, FACTOR = {"private": ["layers.5"]}, {"private": ["*.q_proj.lora_B"]}
# An algorithm, sections of the recipe, and a part of the names of all tensors that stay with their client.
PRIVATE = [
    ("fedavg", LAYER, "layers.5."),
    ("fedavg", FACTOR, "q_proj.lora_B"),
    ("scaffold", LAYER, "layers.5."),
    ("fedbuff", LAYER, "layers.5."),
    ("fedex_lora", LAYER, "layers.5."),
    ("rolora", LAYER, "layers.5."),
    ("fedsa_lora", {}, "lora_B"),
]


def opened(values: Values, out: Path) -> tuple[Session, Arm]:
    session = open_session(load_recipe(values), out)
    return session, build_arms(session)[0]


def adapter_of(out: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(out / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(("name", "federation", "part"), PRIVATE)
def test_private_tensors_never_travel(name: str, federation: Values, part: str, source: Path, tmp_path: Path) -> None:
    session, arm = opened(settings(source, name, federation=federation), tmp_path)
    state = first_state(session, arm)
    before = {**state.adapter, **arm.algorithm.sent(state.algorithm)}
    plan = arm.plan(1, state.algorithm)
    updates = list(session.runtime.train(plan, before, arm.algorithm))
    kept = {}
    for update in updates:
        assert update.delta
        assert not [name for name in {**update.delta, **update.extra} if part in name]
        assert update.metrics["bytes_up"] == len(encode({**update.delta, **update.extra}))
        kept[update.client] = personal_adapter(session.store, "federated", update.client, 1)
        assert kept[update.client].keys() == {name for name in state.adapter if part in name}
        # B starts at zero.
        assert any(bool(value.any()) for name, value in kept[update.client].items() if "lora_B" in name)
    # The server's own stay as they were.
    after, own = arm.algorithm.step(state.adapter, state.algorithm, updates)
    assert all(torch.equal(after[name], state.adapter[name]) for name in after if part in name)
    # A client goes on from what it has kept: with a learning rate of 0 it ends there.
    again = replace(plan, round=2, learning_rate=0.0, trained=arm.algorithm.trained(own), versions=plan.versions)
    for update in session.runtime.train(again, {**after, **arm.algorithm.sent(own)}, arm.algorithm):
        went_on = personal_adapter(session.store, "federated", update.client, 2)
        assert all(torch.equal(went_on[name], value) for name, value in kept[update.client].items())
        assert not any(bool(value.any()) for value in update.delta.values())


def test_what_is_sent_beside_the_adapter_has_the_right_names(source: Path, tmp_path: Path) -> None:
    """Control variates after one step are gradients, and with B = 0 those of A are zero, those of B are not."""
    one_step = {"epochs": None, "steps": 1}
    session, arm = opened(settings(source, "scaffold", federation=LAYER, local=one_step), tmp_path)
    state = first_state(session, arm)
    before = {**state.adapter, **arm.algorithm.sent(state.algorithm)}
    for update in session.runtime.train(arm.plan(1, state.algorithm), before, arm.algorithm):
        assert all(bool(value.any()) == ("lora_B" in name) for name, value in update.extra.items())


@pytest.mark.parametrize("name", ["fedavg, private layer", "fedsa_lora"])
def test_clients_are_tested_with_their_own(name: str, finished: Callable[[str], Path], tmp_path: Path) -> None:
    out = finished(name)
    session = open_session(load_recipe(out / "recipe.yaml"), tmp_path)
    result = fedloom.inspection.evaluate_run(out)
    shared, differing = adapter_of(out), 0
    for client, scored in result["clients"].items():
        states = sorted((out / "clients" / client / "federated").glob("*"))
        own = safetensors.torch.load_file(states[-1]) if states else {}
        whole = {**shared, **{name.removeprefix("adapter/"): value for name, value in own.items()}}
        assert scored == session.evaluator.shared(whole)["clients"][client]
        differing += bool(states) and scored != session.evaluator.shared(shared)["clients"][client]
    assert differing


# With nothing to clip, and steps in proportion to gradients, how far a client goes shows what holds it.
PULLED = {
    "federation": {"rounds": 1},
    "local": {"epochs": None, "steps": 8, "optimizer": "sgd", "learning_rate": 0.01, "max_gradient_norm": None},
}


def test_ditto_s_own_adapters(source: Path, tmp_path: Path) -> None:
    distances = {}
    for lam in (0.0, 80.0):
        session, arm = opened(settings(source, "ditto", {"lam": lam}, **PULLED), tmp_path / str(lam))
        state = first_state(session, arm)
        updates = list(session.runtime.train(arm.plan(1, state.algorithm), state.adapter, arm.algorithm))
        for update in updates:
            own = personal_adapter(session.store, "federated", update.client, 1)
            moved = {name: own[name] - state.adapter[name] for name in own}
            if lam == 0:
                # In the first round it does what the shared one does.
                assert all(torch.equal(moved[name], update.delta[name]) for name in moved)
            distances[lam, update.client] = sum(float(value.square().sum()) for value in moved.values()) ** 0.5
            if lam:
                assert 0 < distances[lam, update.client] < 0.5 * distances[0.0, update.client]
    assert len({client for _, client in distances}) == 5


def test_ditto_is_told_with_and_without_its_own_adapters(left_by: Callable[[str], Values]) -> None:
    result = left_by("ditto")["metrics"]["eval"]
    assert result["personal"]["loss"] != result["own"]["loss"]
    assert result["loss"] == left_by("fedavg")["metrics"]["eval"]["loss"]


def test_fine_tuning_goes_on_from_the_federated_adapter(source: Path, tmp_path: Path) -> None:
    """With a learning rate of next to nothing it stays there; with the usual one every client gets an own adapter."""
    results = {}
    for rate in (1e-12, 3e-3):
        values = settings(source, "fedavg", baselines=[{"kind": "fine_tuned", "learning_rate": rate}])
        results[rate] = fedloom.run(values, tmp_path / str(rate)).metrics
    for metrics in results.values():
        assert metrics["eval"] == results[1e-12]["eval"]
    still, tuned = (results[rate]["baselines"]["fine_tuned"] for rate in (1e-12, 3e-3))
    assert still["own"]["loss"] == pytest.approx(results[1e-12]["eval"]["own"]["loss"], rel=1e-6)
    assert abs(tuned["own"]["loss"] - still["own"]["loss"]) > 1e-3
    # And its loss where it begins is that of the federated adapter, not of the untuned base.
    began = [
        next(event for event in read_events(tmp_path / "1e-12" / "events.jsonl") if event["event"] == kind)
        for kind in ("round", "baseline_round")
    ]
    assert began[1]["loss"] < began[0]["loss"]
