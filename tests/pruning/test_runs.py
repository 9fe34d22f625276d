"""Whole runs of clients that leave out units: the neutral setting, bytes, cohorts, what is kept, kills, processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor

import fedloom
import fedloom.training.cohort
from fedloom.aggregation.kept_units import KEPT, unpack_kept
from tests.federated_runs import CLIENTS, outcome
from tests.layers.federations import Values, decoded, opened, recorded, settings
from tests.processes import Command, carry_out
from tests.test_kill_and_resume import killed_after

# Of the embedded model: 5 heads and 416 neurons in each of 6 layers.
HEADS, NEURONS, LAYERS = 5, 416, 6
RATES = {"ada": 0.5, "bo": 0.3, "cyd": 0.75, "dee": 0.5, "eli": 0.1}


def pruned(source: Path, pruning: Values | None, **sections: Any) -> Values:
    local = {} if pruning is None else {"pruning": pruning}
    return settings(source, None, local={**local, **sections.pop("local", {})}, **sections)


def trained(values: Values, out: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(fedloom.run(values, out).adapter / "adapter_model.safetensors")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs left the same, whatever their recipes are called."""
    return {key: one[key] for key in ("adapters", "metrics")} == {key: other[key] for key in ("adapters", "metrics")}


def test_rate_zero_is_the_plain_run_to_the_bit(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(pruned(source, None)))
    carry_out("fedloom run recipe.yaml --out plain")
    carry_out("fedloom run recipe.yaml --out neutral --set local.pruning.rate=0")
    assert same(outcome(Path("plain")), outcome(Path("neutral")))
    assert not Path("neutral/clients").exists()


@pytest.mark.parametrize("compute", ["masked", "sliced"])
def test_who_leaves_out_nothing_trains_as_without_pruning(source: Path, tmp_path: Path, compute: str) -> None:
    """Beside clients that leave out half, in one pass with them, a client of rate 0 is the plain one to the bit."""
    rates = dict.fromkeys(CLIENTS[:-1], 0.5)
    updates = {}
    for name, pruning in (("plain", None), ("pruned", {"rate": rates, "compute": compute})):
        values = pruned(source, pruning, federation={"clients_per_round": 8})
        session, arm = opened(values, tmp_path / name)
        adapter = session.grouped.initial(0)
        plan = arm.plan(1, arm.algorithm.init(adapter))
        updates[name] = {one.client: one for one in session.runtime.train(plan, adapter, arm.algorithm)}
    plain, beside = (updates[name][CLIENTS[-1]] for name in ("plain", "pruned"))
    assert all(torch.equal(plain.delta[name], beside.delta[name]) for name in plain.delta)
    assert plain.metrics == beside.metrics
    assert KEPT not in beside.extra
    assert all(KEPT in updates["pruned"][client].extra for client in rates)


def test_a_client_does_not_depend_on_its_cohort(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Texts are short here: let some of the clients be alone over smaller weights all the same.
    monkeypatch.setattr("fedloom.runtime.pruning.WORTH_SLICING", 1.2e7)
    used: list[str] = []
    for way in ("by_slices", "by_masks"):
        plain = getattr(fedloom.training.cohort, way)

        def noted(*arguments: Any, way: str = way, plain: Callable[..., Any] = plain) -> Any:
            used.append(way)
            return plain(*arguments)

        monkeypatch.setattr(f"fedloom.training.cohort.{way}", noted)
    adapters = {}
    for cohort in (1, 4):
        federation = {"rounds": 1, "clients_per_round": 8}
        values = pruned(source, {"rate": RATES}, federation=federation, runtime={"cohort": cohort})
        used.clear()
        adapters[cohort] = trained(values, tmp_path / str(cohort))
        assert set(used) == {"by_slices", "by_masks"}
    assert all(torch.equal(adapters[4][name], adapters[1][name]) for name in adapters[1])


def test_both_ways_come_to_the_same(source: Path, tmp_path: Path) -> None:
    # With plain gradient steps rounding stays rounding; see docs/architecture.md on AdamW's epsilon.
    local = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0.0}
    one, other = (
        trained(
            pruned(source, {"rate": RATES, "compute": compute}, federation={"rounds": 1}, local=local),
            tmp_path / compute,
        )
        for compute in ("masked", "sliced")
    )
    difference = torch.cat([(one[name] - other[name]).flatten() for name in one]).norm()
    assert difference < 1e-5 * torch.cat([value.flatten() for value in other.values()]).norm()


def test_half_the_units_are_half_the_bytes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFA-LoRA sends B alone; on query and value all of its rows belong to heads."""
    messages = recorded(monkeypatch)
    adapter = {"rank": 4, "targets": ["q_proj", "v_proj"]}
    payloads, reports = {}, {}
    for rate in (0.0, 0.5):
        messages.clear()
        values = pruned(source, {"rate": rate}, federation={"algorithm": "ffa_lora", "rounds": 1}, model={
            "adapter": adapter})  # fmt: skip
        reports[rate] = fedloom.run(values, tmp_path / str(rate)).metrics
        sent = next(tensors for tensors in map(decoded, messages) if (KEPT in tensors) == (rate > 0))
        payloads[rate] = sum(tensor.nbytes for name, tensor in sent.items() if name != KEPT)
    unit = 2 * 32 * 4 * 4 * LAYERS  # two targets, 32 rows of rank 4 in fp32, in every layer
    assert payloads[0.0] == HEADS * unit
    assert 0 <= payloads[0.5] - payloads[0.0] / 2 <= unit
    assert reports[0.5]["bytes_up"] < 0.65 * reports[0.0]["bytes_up"]
    # The server sends everything: it does not know what a client will leave out.
    assert reports[0.5]["bytes_down"] == reports[0.0]["bytes_down"]


def test_with_both_factors_only_tied_entries_are_left_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = recorded(monkeypatch)
    fedloom.run(pruned(source, {"rate": 0.5}, federation={"rounds": 1}), tmp_path / "run")
    update = next(tensors for tensors in map(decoded, messages) if KEPT in tensors)
    layer = "base_model.model.model.layers.0."
    shapes = {name.removeprefix(layer): tuple(value.shape) for name, value in update.items() if layer in name}
    assert shapes == {
        "self_attn.q_proj.lora_A.weight": (4, 160),
        "self_attn.q_proj.lora_B.weight": (3 * 32, 4),
        "self_attn.v_proj.lora_A.weight": (4, 160),
        "self_attn.v_proj.lora_B.weight": (3 * 32, 4),
        "mlp.down_proj.lora_A.weight": (4, NEURONS // 2),
        "mlp.down_proj.lora_B.weight": (160, 4),
    }
    kept = unpack_kept(update[KEPT], LAYERS * (HEADS + NEURONS))[: LAYERS * (HEADS + NEURONS)]
    assert [int(part.sum()) for part in kept.split([HEADS, NEURONS] * LAYERS)] == [3, 208] * LAYERS


def test_what_nobody_kept_stays_and_what_is_left_out_is_not_trained(source: Path, tmp_path: Path) -> None:
    """One client: of its omitted units no entry of the adapter moves, weight decay or not."""
    values = pruned(source, {"rate": 0.5}, federation={"rounds": 1, "clients_per_round": 1})
    session, arm = opened(values, tmp_path / "run")
    adapter = session.grouped.initial(0)
    # B is zero at first, and decays to nothing: only other numbers can show whether they were touched.
    adapter = {name: value + 0.01 for name, value in adapter.items()}
    state = arm.algorithm.init(adapter)
    plan = arm.plan(1, state)
    updates = list(session.runtime.train(plan, adapter, arm.algorithm))
    after, _ = arm.algorithm.step(adapter, state, updates)
    bits = unpack_kept(updates[0].extra[KEPT], 1)[: LAYERS * (HEADS + NEURONS)]
    parts = bits.split([HEADS, NEURONS] * LAYERS)
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}"
        moved = (
            after[f"{name}.self_attn.v_proj.lora_B.weight"] != adapter[f"{name}.self_attn.v_proj.lora_B.weight"]
        ).any(1)
        assert torch.equal(moved, parts[2 * layer].repeat_interleave(32))
        moved = (after[f"{name}.mlp.down_proj.lora_A.weight"] != adapter[f"{name}.mlp.down_proj.lora_A.weight"]).any(0)
        assert torch.equal(moved, parts[2 * layer + 1])


def test_importance_is_measured_once_or_as_often_as_refresh_says(source: Path, tmp_path: Path) -> None:
    def kept(name: str, **pruning: Any) -> list[np.ndarray]:
        values = pruned(source, {"rate": 0.5, **pruning}, federation={"rounds": 3, "clients_per_round": 8})
        fedloom.run(values, tmp_path / name)
        folder = tmp_path / name / "clients" / "ada" / "federated"
        states = [safetensors.torch.load_file(folder / f"{number}.safetensors") for number in (1, 2, 3)]
        return [state["pruning/importance"].numpy() for state in states]

    once = kept("once")
    assert np.array_equal(once[0], once[1])
    assert np.array_equal(once[1], once[2])
    second = kept("second", refresh=2)
    assert np.array_equal(second[0], second[1])
    assert not np.array_equal(second[1], second[2])


@pytest.mark.long
def test_killed_and_resumed_or_shared_out_it_ends_with_the_same_bytes(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    values = pruned(source, {"rate": RATES, "refresh": 2}, federation={"rounds": 4})
    file.write_text(yaml.safe_dump(values))
    fedloom.run(values, tmp_path / "undisturbed")
    undisturbed = outcome(tmp_path / "undisturbed")
    out = tmp_path / "killed"
    killed_after(Command("run", file, "--out", out), out, 3, 0.1)
    Command("run", file, "--out", out, "--resume").finish()
    assert outcome(out) == undisturbed
    Command("run", file, "--out", tmp_path / "shared", "--processes", "2").finish()
    assert same(outcome(tmp_path / "shared"), undisturbed)
