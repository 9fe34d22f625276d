"""Runs that start from an adapter that was trained before: that very one, in every arm, resumed or not."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import yaml
from transformers import AutoModelForCausalLM

import fedloom
from fedloom.checkpoint import load_checkpoint
from fedloom.errors import UserError
from fedloom.inspection import evaluate_run
from fedloom.model.adapters.low_rank_start import best_factors
from fedloom.model.adapters.sparse import dense, read_sparse
from fedloom.model.base import POCKET
from fedloom.model.start import first_adapter
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import check_settings, open_model
from tests.adapters.kinds import settings
from tests.adapters.test_combinations import OF_FACTORS
from tests.algorithms.every import PARAMETERS
from tests.federated_runs import outcome
from tests.processes import TwoProcesses, carry_out, forked, killed_run

Finished = Callable[..., Path]
Values = dict[str, Any]


def started(source: Path, kind: str, folder: Path) -> Values:
    """A recipe of one round that starts from a folder, with a baseline that does, too."""
    values = settings(source, kind, federation={"rounds": 1}, local={"epochs": 1})
    values["model"]["adapter"] = {**values["model"]["adapter"], "start": str(folder)}
    return {**values, "baselines": ["local"]}


def evaluations(out: Path) -> dict[tuple[str, int], Values]:
    events = read_events(out / "events.jsonl")
    return {(event["arm"], event["round"]): event["result"] for event in events if event["event"] == "evaluation"}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "bottleneck", "p_tuning", "sparse"])
def test_the_start_is_where_the_former_run_ended(finished: Finished, source: Path, tmp_path: Path, kind: str) -> None:
    former, values = finished(kind), started(source, kind, finished(kind) / "adapter")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    carry_out(f"fedloom run {tmp_path / 'recipe.yaml'} --out {tmp_path / 'run'}")
    before, after = evaluations(former), evaluations(tmp_path / "run")
    assert after["start", 0] == before["federated", 3]
    assert after["base", 0] == before["base", 0] != after["start", 0]
    assert after["federated", 1]["loss"] != after["start", 0]["loss"]
    # What is better than the start counts, not what is better than the base.
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert state.losses == [after["start", 0]["loss"], after["federated", 1]["loss"]]

    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    _, grouped = open_model(recipe)
    first, stored = (
        first_adapter(grouped, recipe.model.adapter, recipe.seed),
        load_checkpoint(former / "checkpoints").adapter,
    )
    assert first.keys() == stored.keys()
    assert all(torch.equal(first[name], stored[name]) for name in first)
    # The same adapter is written however it was come by.
    assert "start" not in json.loads(next((tmp_path / "run" / "adapter").glob("*.json")).read_text())
    report = (tmp_path / "run" / "report.html").read_text()
    assert "the adapter that all of this run&#39;s training started from" in report


@pytest.mark.long
def test_killed_and_resumed(finished: Finished, source: Path, tmp_path: Path) -> None:
    values = started(source, "lora", finished("lora") / "adapter")
    fedloom.run(values, tmp_path / "undisturbed")
    # The federation's end is committed, and the next arm is to start.
    process = forked.Process(target=killed_run, args=(values, [], tmp_path / "killed", 3, True))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    fedloom.run(values, tmp_path / "killed", resume=True)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "undisturbed")


@pytest.mark.long
def test_a_start_that_has_changed_is_refused(finished: Finished, source: Path, tmp_path: Path) -> None:
    folder, out = shutil.copytree(finished("lora") / "adapter", tmp_path / "former"), tmp_path / "run"
    values = started(source, "lora", folder)
    fedloom.run(values, out)
    own = json.loads((out / "metrics.json").read_text())["eval"]
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    name = min(tensors)
    safetensors.torch.save_file({**tensors, name: tensors[name] + 1e-3}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"model\.adapter\.start: .*former' is not the adapter that the run in"):
        fedloom.run(values, out, resume=True)
    # What has been trained needs it no longer.
    shutil.rmtree(folder)
    assert evaluate_run(out)["loss"] == pytest.approx(own["loss"], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("bottleneck", {"activation": "relu"}, "model.adapter.activation: 'relu', but .* holds one with 'gelu'"),
        ("p_tuning", {"virtual_tokens": 7}, "model.adapter.virtual_tokens: 7, but .* holds one with 6"),
        ("p_tuning", {"hidden_size": 32}, "model.adapter.hidden_size: 32, but .* holds one with 24"),
        ("sparse", {"share": 0.02}, "model.adapter.share: 0.02, but .* holds one with 0.05"),
        ("sparse", {"mask_seed": 1}, "model.adapter.mask_seed: 1, but .* holds one with 0"),
        ("sparse", {"targets": ["q_proj"]}, "has an adapter on model.layers.0.self_attn.v_proj"),
        ("ia3", {"feedforward": []}, r"down_proj.ia3_l has shape \[1, 416\], expected \[160, 1\]"),
    ],
)
def test_folders_that_do_not_fit(finished: Finished, source: Path, kind: str, changes: Values, told: str) -> None:
    """Each of these has been refused before weights are read."""
    values = started(source, kind, finished(kind) / "adapter")
    check_settings(load_recipe(values))
    values["model"]["adapter"] |= changes
    with pytest.raises(UserError, match=told):
        check_settings(load_recipe(values))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", sorted(OF_FACTORS))
def test_algorithms_of_factors_start_from_it(finished: Finished, source: Path, tmp_path: Path, algorithm: str) -> None:
    """Also those that put other tensors beside the factors, or change the base."""
    values = started(source, "lora", finished("lora") / "adapter")
    values["federation"]["algorithm"] = {"name": algorithm, **PARAMETERS[algorithm]}
    fedloom.run(values, tmp_path / "run")
    before, after = evaluations(finished("lora")), evaluations(tmp_path / "run")
    for found, expected in ((after["start", 0], before["federated", 3]), (after["base", 0], before["base", 0])):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert after["federated", 1]["loss"] != after["start", 0]["loss"]


@pytest.mark.slow
def test_two_processes_equal_one(finished: Finished, source: Path, tmp_path: Path) -> None:
    values = started(source, "lora", finished("sparse") / "adapter")
    fedloom.run(values, tmp_path / "one")
    pair = TwoProcesses()
    try:
        pair.run(values, tmp_path / "two")
    finally:
        pair.end()
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")


@pytest.mark.long
def test_compared_with_a_fresh_adapter(finished: Finished, source: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished("lora") / "adapter", tmp_path / "former")
    values = settings(source, "lora", federation={"rounds": 1})
    vary = {"model.adapter.start": [None, str(folder)]}
    fedloom.compare(values, tmp_path / "both", vary=vary, seeds=1)
    content = json.loads((tmp_path / "both" / "compare.json").read_text())
    fresh, warm = (variant["runs"][0] for variant in content["variants"])
    assert fresh["scores"]["base"] == warm["scores"]["base"]
    assert "start" not in fresh["scores"]
    # A curve begins where its training did.
    assert fresh["curve"]["loss"][0] == fresh["scores"]["base"]["loss"]
    assert warm["curve"]["loss"][0] == warm["scores"]["start"]["loss"]
    # Of a comparison that has something left to do.
    shutil.rmtree(tmp_path / "both" / warm["folder"])
    (folder / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"model\.adapter\.start: the files changed since the comparison"):
        fedloom.compare(values, tmp_path / "both", vary=vary, seeds=1, resume=True)


def test_a_folder_that_peft_has_written(tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator))
    model.save_pretrained(tmp_path / "theirs")
    adapter = {"kind": "lora", "rank": 4, "start": str(tmp_path / "theirs")}
    recipe = load_recipe({"model": {"adapter": adapter, "dtype": "float32"}})
    _, grouped = open_model(recipe)
    theirs = peft.get_peft_model_state_dict(model)
    found = first_adapter(grouped, recipe.model.adapter, 0)
    assert found.keys() == theirs.keys() == grouped.shapes.keys()
    assert all(torch.equal(found[name], theirs[name]) for name in found)


# Wide, tall and square; the last rank is that of the whole matrix.
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)], ids=["wide", "tall", "square"])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_best_approximation_of_a_rank(shape: tuple[int, int], rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.3)
    fresh = torch.full((rank, shape[1]), 7.0)
    a, b = best_factors(change, 4.0, fresh)
    u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
    best = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
    product = 4.0 * b.double() @ a.double()
    assert (product - best).norm() < 1e-6 * best.norm()
    error = (product - change.double()).norm()
    assert error.item() == pytest.approx(s[rank:].square().sum().sqrt().item(), rel=1e-5, abs=1e-5)
    # Half of the scale is in each factor.
    assert torch.allclose(a.norm(dim=1), b.norm(dim=0), rtol=1e-5)


def test_what_the_change_leaves_over_begins_as_lora_does() -> None:
    """Both factors of a lost rank zero would never get a gradient."""
    fresh = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    a, b = best_factors(torch.zeros(6, 10), 2.0, fresh)
    assert torch.equal(a, fresh)
    assert not b.any()
    outer = torch.outer(torch.arange(6.0), torch.arange(10.0))
    a, b = best_factors(outer, 2.0, fresh)
    assert torch.equal(a[1:], fresh[1:])
    assert not b[:, 1:].any()
    assert torch.allclose(2.0 * b @ a, outer, atol=1e-4)


@pytest.mark.long
def test_the_pages_two_commands(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLoRA, as docs/adapters.md has it."""
    monkeypatch.chdir(tmp_path)
    values = settings(source, "lora", federation={"rounds": 1}, evaluation={"max_clients": 1})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    page = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text().partition("### SLoRA")[2]
    commands = re.findall(r"^    (fedloom run .*)$", page.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        carry_out(command)
    assert ("start", 0) in evaluations(tmp_path / "runs" / "stage-2")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_lora_goes_on_from_sparse_changes(finished: Finished, source: Path, tmp_path: Path, kind: str) -> None:
    """Of all ranks it is the sparse model; of a lower one, its best approximation."""
    former = finished("sparse")
    values = settings(source, kind, federation={"rounds": 1})
    adapter = {"kind": kind, "start": str(former / "adapter")}
    values["model"]["adapter"] = {**adapter, "rank": 4}
    recipe = load_recipe(values)
    _, grouped = open_model(recipe)
    found, (changes, positions) = first_adapter(grouped, recipe.model.adapter, 0), read_sparse(former / "adapter")
    for layer, places in positions.items():
        a, b = (found[f"base_model.model.{layer}.lora_{factor}.weight"] for factor in "AB")
        whole = dense(changes[f"{layer}.sparse.values"], places, (len(b), a.shape[1])).double()
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        best = u[:, :4] @ torch.diag(s[:4]) @ vh[:4]
        assert (recipe.model.adapter.scale * b.double() @ a.double() - best).norm() < 1e-5 * best.norm()

    values["model"]["adapter"] = {**adapter, "rank": 160}
    fedloom.run(values, tmp_path / "run")
    before, after = evaluations(former)["federated", 3], evaluations(tmp_path / "run")
    assert after["start", 0]["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert after["base", 0]["loss"] == pytest.approx(evaluations(former)["base", 0]["loss"], rel=1e-5)
    assert after["federated", 1]["loss"] != after["start", 0]["loss"]
