"""Runs that learn from preferences: cohorts to the bit, references once, every family of algorithms, kept measures."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import fedloom
from fedloom.inspection import evaluate_run, generate_answer
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import label_losses, pack_groups
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import open_session
from fedloom.training.objectives import PreferenceObjective
from fedloom.training.references import ROW, References
from fedloom.training.responses import partner, two_responses
from tests.preference_runs import recipe, write_pairs

LOSSES = ("sigmoid", "ipo", "kto", "orpo", "simpo")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Four clients."""
    return write_pairs(tmp_path_factory.mktemp("data") / "few.jsonl", ("ada", "bo", "cyd", "dee"))


def adapter_of(folder):
    return safetensors.torch.load_file(folder / "adapter" / "adapter_model.safetensors")


def short(source, loss="sigmoid", **sections: Any) -> dict[str, Any]:
    return recipe(
        source,
        {"loss": loss},
        federation={"rounds": 2, "clients_per_round": 4, **sections.pop("federation", {})},
        local={"steps": 2, "epochs": None, "batch_size": 3},
        **sections,
    )


def test_cohorts_equal_single_clients_to_the_bit(few, tmp_path):
    for cohort in (1, 4):
        fedloom.run(short(few), tmp_path / str(cohort), overrides=[f"runtime.cohort={cohort}"])
    alone, together = adapter_of(tmp_path / "1"), adapter_of(tmp_path / "4")
    assert all(torch.equal(together[name], alone[name]) for name in alone)
    # So are the references: one row for each example that was drawn, the same bytes.
    files = [next((tmp_path / cohort / "references").iterdir()).read_bytes() for cohort in ("1", "4")]
    assert files[0] == files[1]
    rows = np.frombuffer(files[0], ROW)
    known = rows["second"] > 0
    assert 0 < known.sum() < len(rows)
    assert (rows["sums"][known] < 0).all()


@pytest.fixture(scope="module")
def opened(few, tmp_path_factory):
    """What a run works with, and an adapter some way into its training, for pairs and for single responses."""
    found = {}
    for loss in ("sigmoid", "kto"):
        checked = load_recipe(short(few, loss))
        session = open_session(checked, tmp_path_factory.mktemp(loss))
        generator = torch.Generator().manual_seed(1)
        fresh = session.grouped.initial(0)
        moved = {name: value + 0.02 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}
        found[loss] = SimpleNamespace(session=session, moved=moved, options=checked.task)
    return found


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_references_are_computed_once_and_are_what_they_were(opened, tmp_path, loss):
    session = opened[loss].session
    objective = session.runtime.objective
    assert isinstance(objective, PreferenceObjective)
    sets = [session.data.examples(client, "train") for client in session.data.clients]
    arguments = (session.data.rows, session.model, session.grouped, session.runtime.lanes, session.reference, 1000)
    one, other = References(tmp_path / "one.bin", *arguments), References(tmp_path / "other.bin", *arguments)
    one.prepare(sets)
    # One after another, from the last to the first, in passes of other lengths.
    for examples in reversed(sets):
        other.prepare([examples])
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "other.bin").read_bytes()
    again = References(tmp_path / "one.bin", *arguments)

    class Unused:
        def map(self, function, items):
            assert not list(items), "what is known is computed again"
            return []

    again._lanes = Unused()
    again.prepare(sets)
    assert torch.equal(again.of(sets[0], [1, 0]), one.of(sets[0], [1, 0]))
    # Plainly: one sequence after another.
    for place, sums in enumerate(one.of(sets[0], range(3))):
        for example, found in zip(two_responses(sets[0], [place], 1000), sums, strict=True):
            with torch.no_grad():
                session.grouped.load([session.reference()], trainable=False)
                packed = pack_groups(session.grouped, [[example]])
                losses = label_losses(session.model, session.grouped, packed)
            assert float(found) == pytest.approx(-float(losses.double().sum()), rel=1e-6)


def test_a_response_belongs_to_the_nearest_other_prompt_before(opened):
    examples = opened["kto"].session.data.examples("dee", "train")
    assert {examples.desirable(place) for place in range(len(examples))} == {True, False}

    def prompt(place):
        return examples.tokens(place)[: int(np.argmax(examples.trained(place)))].tolist()

    for place in range(len(examples)):
        other = partner(examples, place)
        assert prompt(other) != prompt(place)
        between = [(place - distance) % len(examples) for distance in range(1, (place - other) % len(examples))]
        assert all(prompt(one) == prompt(place) for one in between)
        own, joined = two_responses(examples, [place], 1000)
        assert own.tokens.tolist() == examples.tokens(place).tolist()
        assert joined.tokens.tolist() == [*prompt(place), *examples.tokens(other)[len(prompt(other)) :].tolist()]
        assert joined.trained.sum() == examples.trained(other).sum()
    cut = two_responses(examples, [0], len(prompt(0)) + 1)[1]
    assert (len(cut.tokens), int(cut.trained.sum())) == (len(prompt(0)) + 1, 1)


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_what_responses_share_is_computed_once_and_changes_nothing(opened, loss):
    """Prompts that lie in a batch once, against every sequence by itself: loss and gradients."""
    session, objective = opened[loss].session, opened[loss].session.runtime.objective
    examples = session.data.examples("dee", "train")
    objective.prepare([examples])
    client = objective.batch(examples, np.arange(6))
    found = []
    for share in (True, False):
        session.grouped.load([opened[loss].moved])
        packed = pack_groups(session.grouped, [client.examples], share_prompts=share)
        step = objective.loss(label_losses(session.model, session.grouped, packed), packed, [client])
        session.grouped.backward(step.total)
        found.append((packed.tokens, float(step.sums[0]), session.grouped.gradients[0].clone()))
    shared, apart = found
    assert shared[0] < 0.75 * apart[0]
    assert shared[1] == pytest.approx(apart[1], rel=1e-6)
    # fp32 sums in another order, and an adapter that the model has never seen.
    assert (shared[2] - apart[2]).norm() < 5e-5 * apart[2].norm()


def test_pairs_are_packed_one_after_another(opened):
    examples = opened["sigmoid"].session.data.examples("ada", "train")
    assert [len(one.tokens) for one in two_responses(examples, [2, 0], 1000)] == [
        len(one.tokens) for one in examples_at(examples, [2, 0])
    ]


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "scaffold"},
        {"name": "fedadam", "server_learning_rate": 0.003},
        {"name": "ditto", "lam": 0.1},
        {"name": "flora"},
        {"name": "median"},
    ],
    ids=lambda algorithm: algorithm["name"],
)
def test_every_family_of_algorithms_learns_preferences(few, tmp_path, algorithm):
    fedloom.run(short(few, federation={"algorithm": algorithm}), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["baselines"]["base"]["loss"] == pytest.approx(np.log(2))
    assert metrics["eval"]["loss"] < np.log(2)
    assert metrics["eval"]["kl"] > 0


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A run that learns preferences, and one that has all of them in one place."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = recipe(
        source,
        federation={"rounds": 3, "clients_per_round": 5},
        evaluation={"every": 1},
        baselines=["centralized"],
    )
    fedloom.run(settings, out)
    return out


def test_the_chosen_answer_is_preferred_more_and_more_often(finished):
    results = [
        event["result"]
        for event in read_events(finished / "events.jsonl")
        if event["event"] == "evaluation" and event["arm"] in ("base", "federated")
    ]
    accuracies, margins, distances = (
        [result[key] for result in results] for key in ("reward_accuracy", "reward_margin", "kl")
    )
    assert (accuracies[0], margins[0], distances[0]) == (0.5, 0.0, 0.0)
    assert accuracies[-1] > 0.7
    assert sorted(margins) == margins
    assert sorted(distances) == distances
    last = results[-1]
    assert last["reward_margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"])
    assert last["own"]["reward_accuracy_gini"] >= 0
    assert "reward_margin_gini" not in last["own"]
    assert all(client["reward_accuracy"] <= 1 for client in last["clients"].values())


def test_every_arm_is_compared_with_the_same_reference(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["baselines"]["centralized"]["kl"] > 0
    assert metrics["baselines"]["centralized"]["loss"] < np.log(2)


def test_the_report_shows_measures(finished):
    page = (finished / "report.html").read_text()
    for text in ("Reward accuracy", "Reward margin", "KL to the reference", "reward accuracy"):
        assert text in page


def test_an_adapter_of_preferences_is_evaluated_and_generates(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    again = evaluate_run(finished)
    for key in ("loss", "reward_accuracy", "reward_margin", "kl"):
        assert again[key] == metrics["eval"][key]
    assert isinstance(generate_answer(finished, "word 2 of: river stone lamp", 4, with_adapter=True), str)


def test_a_start_is_the_reference(finished, source, tmp_path):
    """What was learnt before is where rewards are 0."""
    settings = short(source)
    settings["model"]["adapter"]["start"] = str(finished / "adapter")
    fedloom.run(settings, tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["baselines"]["start"]["reward_margin"], metrics["baselines"]["start"]["kl"]) == (0.0, 0.0)
    # The base is what the start has come from, seen from there.
    assert metrics["baselines"]["base"]["reward_margin"] < -0.1
    assert metrics["eval"]["reward_margin"] > 0
    assert evaluate_run(tmp_path / "run")["reward_margin"] == metrics["eval"]["reward_margin"]
