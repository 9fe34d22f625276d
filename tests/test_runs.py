"""Whole runs of the embedded model: what they leave behind, what the arms get to do, what options change."""

import json

import pytest
import safetensors.torch
import torch

import fedloom
from fedloom.model.adapters.lora import GroupedLora
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.runtime.cohort_size import CohortSizer
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.session import open_session
from tests.federated_runs import recipe, write_examples


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("data") / "words.jsonl")


def rounds_of(out, arm):
    kind = "round" if arm == "federated" else "baseline_round"
    return [e for e in read_events(out / "events.jsonl") if e["event"] == kind and e.get("arm", arm) == arm]


def test_every_arm_gets_the_federations_budget(source, tmp_path):
    values = recipe(source, federation={"rounds": 4, "clients_per_round": 2}, local={"epochs": None, "steps": 3})
    values["baselines"] = ["local", {"kind": "centralized", "learning_rate": 1e-3}]
    result = fedloom.run(values, tmp_path / "run")
    federated, local, centralized = (rounds_of(tmp_path / "run", arm) for arm in ("federated", "local", "centralized"))
    assert len(federated) == len(centralized) == 4
    # A client takes part in 4 rounds x 2 of 8 clients on average, which is one round.
    assert len(local) == 1
    assert set(result.metrics["baselines"]) == {"base", "local", "centralized"}
    assert result.metrics["tokens"] == sum(event["tokens"] for event in federated)
    assert result.metrics["bytes_up"] == sum(event["bytes_up"] for event in federated)
    adapter = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert federated[0]["bytes_down"] == pytest.approx(2 * len(adapter), rel=0.01)
    kept = sorted((tmp_path / "run" / "clients").glob("*/local/*.safetensors"))
    assert len(kept) == 8


def test_optimizer_moments_go_on_in_baselines_only(source, tmp_path):
    values = recipe(source, federation={"rounds": 6, "clients_per_round": 4}, local={"epochs": None, "steps": 2})
    values["baselines"] = ["local"]
    fedloom.run(values, tmp_path / "run")
    state = safetensors.torch.load_file(max((tmp_path / "run" / "clients" / "ada" / "local").iterdir()))
    assert float(state["optimizer/step"]) == 3 * 2


def test_memory_budget_decides_the_cohort_and_nothing_else(source, tmp_path, monkeypatch):
    sizes: dict[float, list[int]] = {}
    real = InProcessRuntime._train

    def noted(self, plan, exchange, work):
        sizes.setdefault(self.recipe.runtime.memory_gb, []).append(len(work))
        return real(self, plan, exchange, work)

    monkeypatch.setattr(InProcessRuntime, "_train", noted)
    adapters = []
    for memory in (0.001, 0.03, 4):
        values = recipe(source, federation={"rounds": 1}, runtime={"memory_gb": memory})
        result = fedloom.run(values, tmp_path / str(memory))
        adapters.append(safetensors.torch.load_file(result.adapter / "adapter_model.safetensors"))
    assert sizes[0.001] == [1] * 8
    assert 1 < max(sizes[0.03]) < 8
    assert sizes[4] == [8]
    assert all(torch.equal(adapters[0][name], other[name]) for other in adapters[1:] for name in other)


def test_unseen_clients_are_tested_and_never_trained(source, tmp_path):
    values = recipe(source, federation={"rounds": 2, "clients_per_round": 3})
    values["data"]["unseen_clients"] = 2
    metrics = fedloom.run(values, tmp_path / "run").metrics
    trained = {client for event in rounds_of(tmp_path / "run", "federated") for client in event["clients"]}
    assert len(metrics["eval"]["clients"]) == 6
    assert trained <= metrics["eval"]["clients"].keys()
    assert metrics["eval"]["unseen"]["examples"] > 0


def test_several_seeds_give_means_and_one_report(source, tmp_path):
    values = recipe(source, federation={"rounds": 1, "clients_per_round": 2})
    values["seed"] = 5
    result = fedloom.run(values, tmp_path / "run", seeds=2)
    single = [json.loads((tmp_path / "run" / f"seed-{seed}" / "metrics.json").read_text()) for seed in (5, 6)]
    assert result.metrics["seeds"] == [5, 6]
    assert result.metrics["eval"]["loss"] == pytest.approx(sum(run["eval"]["loss"] for run in single) / 2)
    assert single[0]["eval"]["loss"] != single[1]["eval"]["loss"]
    assert result.report.read_text().count("<html") == 1


def test_finished_runs_resume_to_themselves(source, tmp_path):
    values = recipe(source, federation={"rounds": 1, "clients_per_round": 2})
    first = fedloom.run(values, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    again = fedloom.run(values, tmp_path / "run", resume=True)
    assert again.metrics == first.metrics
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_cohort_sizer_measures_activations(source, tmp_path):
    session = open_session(load_recipe(recipe(source)), tmp_path)
    sizer = CohortSizer(session.model, session.grouped, session.recipe.runtime, lanes=1)
    assert isinstance(session.grouped, GroupedLora)
    # Six layers of hidden size 192 keep at least the inputs of their seven products; a logit row is 8 kB in fp32.
    assert 6 * 7 * 192 * 4 < sizer.kept_bytes < 2**20
