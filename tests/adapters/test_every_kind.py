"""What holds for every kind of adapter: it learns, its traffic is counted, and nothing depends on how it was run."""

import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import fedloom
from fedloom.data.conversation import Message
from fedloom.data.templates import load_template
from fedloom.data.tokenizing import tokenize_prompt
from fedloom.inspection import evaluate_run, generate_answer
from fedloom.model.adapters.registry import KINDS, adapter_class
from fedloom.model.base import load_tokenizer
from fedloom.model.forward import label_logits
from fedloom.model.packing import Example, pack
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import open_model
from fedloom.wire.encoding import encode
from tests.adapters.kinds import SECTIONS, settings
from tests.federated_runs import outcome
from tests.processes import TwoProcesses, forked, killed_run

Finished = Callable[..., Path]


def test_no_kind_is_left_out() -> None:
    assert SECTIONS.keys() == KINDS.keys()


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold", pytest.param("fedadam", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SECTIONS)
def test_it_learns(finished: Finished, kind: str, algorithm: str) -> None:
    out = finished(kind, algorithm)
    metrics = json.loads((out / "metrics.json").read_text())
    losses = [event["loss"] for event in read_events(out / "events.jsonl") if event["event"] == "round"]
    assert losses[-1] < losses[0]
    assert metrics["eval"]["loss"] < metrics["baselines"]["base"]["loss"]


@pytest.mark.long
@pytest.mark.parametrize("kind", SECTIONS)
def test_the_base_is_the_untuned_model(finished: Finished, kind: str) -> None:
    """Also where a fresh adapter is not."""
    metrics = [json.loads((finished(one) / "metrics.json").read_text()) for one in (kind, "lora")]
    base, lora = (found["baselines"]["base"] for found in metrics)
    assert base["loss"] == pytest.approx(lora["loss"], rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("kind", SECTIONS)
def test_bytes_are_those_of_the_trained_tensors(finished: Finished, kind: str) -> None:
    _, grouped = open_model(load_recipe(finished(kind) / "recipe.yaml"))
    trained = grouped.read(finished(kind) / "adapter")
    assert sum(value.numel() for value in trained.values()) == grouped.size
    for algorithm, sent in (
        ("fedavg", trained),
        ("scaffold", {**trained, **{f"control/{name}": value.clone() for name, value in trained.items()}}),
    ):
        events = read_events(finished(kind, algorithm) / "events.jsonl")
        rounds = [event for event in events if event["event"] == "round"]
        for way in ("bytes_up", "bytes_down"):
            assert {event[way] for event in rounds} == {3 * len(encode(sent))}


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in SECTIONS if adapter_class(kind).cohorts])
def test_alone_or_together_in_one_lane_or_two(finished: Finished, source: Path, tmp_path: Path, kind: str) -> None:
    together = outcome(finished(kind))
    fedloom.run(settings(source, kind), tmp_path / "run", ["runtime.cohort=1", "runtime.threads=2"])
    assert outcome(tmp_path / "run") == together


@pytest.mark.long
@pytest.mark.parametrize("kind", SECTIONS)
def test_finished_runs_are_evaluated_and_answer(finished: Finished, tmp_path: Path, kind: str) -> None:
    out = finished(kind)
    own = json.loads((out / "metrics.json").read_text())["eval"]
    assert evaluate_run(out)["loss"] == pytest.approx(own["loss"], rel=1e-5)
    # The first token of an answer is the one that the cohort's model gives.
    recipe = load_recipe(out / "recipe.yaml")
    model, grouped = open_model(recipe)
    tokenizer = load_tokenizer(recipe.model)
    template = load_template(recipe.data.template, tokenizer)
    grouped.load([grouped.read(out / "adapter")], trainable=False)
    answers = set()
    for prompt in ("word 1 of: river stone lamp", "word 2 of: garden letter", "river"):
        tokens = np.append(tokenize_prompt(template.prompt_segments([Message("user", prompt)]), tokenizer), 0)
        answer = [[Example(tokens, np.arange(len(tokens)) == len(tokens) - 1)]]
        with torch.no_grad():
            logits = label_logits(model, grouped, pack(answer, virtual_tokens=grouped.places))
        expected = tokenizer.decode(logits.argmax(-1), skip_special_tokens=True).strip()
        assert generate_answer(out, prompt, 1, True) == expected
        answers.add(expected)
    assert answers != {""}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dora", pytest.param("full", marks=pytest.mark.slow)])
def test_killed_and_resumed(finished: Finished, source: Path, tmp_path: Path, kind: str) -> None:
    """With what clients keep: SCAFFOLD's control variates."""
    values, out = settings(source, kind, "scaffold"), tmp_path / "run"
    draw = random.Random(kind)
    process = forked.Process(target=killed_run, args=(values, [], out, draw.randint(3, 12), draw.random() < 0.5))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    fedloom.run(values, out, resume=True)
    assert outcome(out) == outcome(finished(kind, "scaffold"))


@pytest.fixture(scope="module")
def two_processes() -> Iterator[TwoProcesses]:
    pair = TwoProcesses()
    yield pair
    pair.end()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bottleneck", "p_tuning", pytest.param("full", marks=pytest.mark.slow)])
def test_two_processes_equal_one(
    finished: Finished, source: Path, two_processes: TwoProcesses, tmp_path: Path, kind: str
) -> None:
    two_processes.run(settings(source, kind), tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(finished(kind))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ia3", pytest.param("full", marks=pytest.mark.slow)])
def test_private_parts_stay_with_clients(source: Path, tmp_path: Path, kind: str) -> None:
    out = fedloom.run(settings(source, kind, federation={"private": ["layers.5"], "rounds": 1}), tmp_path / "run").out
    kept = [safetensors.torch.load_file(path) for path in out.glob("clients/*/federated/1.safetensors")]
    assert len(kept) == 3
    names = {name.removeprefix("adapter/") for name in kept[0]}
    _, grouped = open_model(load_recipe(out / "recipe.yaml"))
    assert names == {name for name in grouped.shapes if ".layers.5." in name}
    shared, fresh = grouped.read(out / "adapter"), grouped.initial(0)
    changed = {name for name in shared if not torch.equal(shared[name], fresh[name])}
    assert changed
    assert not changed & names


@pytest.mark.long
def test_layers_below_the_lowest_change_are_computed_once(source: Path, tmp_path: Path) -> None:
    """Also where transformers computes the layers, and to the same bytes."""
    values = settings(source, "bitfit")
    values["model"]["adapter"] = {"kind": "bitfit", "layers": [5]}
    for folder, overrides in (("kept", ["runtime.cohort=8"]), ("anew", ["runtime.prefix_cache_gb=0"])):
        fedloom.run(values, tmp_path / folder, overrides)
    assert outcome(tmp_path / "kept") == outcome(tmp_path / "anew")
    _, grouped = open_model(load_recipe(tmp_path / "kept" / "recipe.yaml"))
    assert grouped.frozen_prefix is not None
