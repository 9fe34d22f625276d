"""The shipped recipes on real text, and adapters that PEFT loads with the logits that Fedloom gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import fedloom
from fedloom.data.shards import ExampleSet
from fedloom.inspection import evaluate_run, generate_answer
from fedloom.model.forward import label_logits
from fedloom.model.packing import Example, pack
from fedloom.recipe import load_recipe
from fedloom.report.events import read_events
from fedloom.session import open_session, prepare_data
from tests.federated_runs import recipe, write_examples

ROOT = Path(__file__).resolve().parent.parent


def largest_difference_to_peft(out: Path, base: Path | str, examples: ExampleSet) -> float:
    """Largest difference of a logit, relative to the largest logit.

    In fp32, transformers' own two attention implementations differ by about 2e-6 in this measure.
    """
    session = open_session(load_recipe(out / "recipe.yaml"), out)
    session.grouped.load([session.grouped.read(out / "adapter")], trainable=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(out / "adapter")).eval()
    worst, largest = 0.0, 0.0
    with torch.no_grad():
        for place in range(0, len(examples), max(1, len(examples) // 8)):
            tokens = examples.tokens(place)
            everywhere = Example(tokens, np.ones(len(tokens), dtype=bool))
            ours = label_logits(session.model, session.grouped, pack([[everywhere]]))
            theirs = model(torch.from_numpy(tokens)[None]).logits[0, :-1]
            worst = max(worst, float((ours - theirs).abs().max()))
            largest = max(largest, float(theirs.abs().max()))
    return worst / largest


def test_dolly_learns_and_its_adapter_loads_in_peft(shared, tmp_path):
    overrides = [
        f"model.base={shared}/models/stories260K",
        f"data.source={shared}/data/instruct/dolly15k.jsonl.gz",
        "model.dtype=float32",
        "federation.rounds=2",
        "local={steps: 4, batch_size: 8, learning_rate: 5.0e-3}",
        "evaluation={every: 1, max_examples: 10}",
    ]
    result = fedloom.run(ROOT / "recipes" / "dolly.yaml", tmp_path / "run", overrides)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics == result.metrics
    assert metrics["eval"]["loss"] < metrics["baselines"]["base"]["loss"]
    assert len(metrics["eval"]["clients"]) == 10
    rounds = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == "round"]
    assert [event["round"] for event in rounds] == [1, 2]
    assert {"clients", "loss", "tokens", "train_seconds", "bytes_up", "bytes_down"} <= rounds[0].keys()
    data, _ = prepare_data(load_recipe(tmp_path / "run" / "recipe.yaml"), tmp_path / "run" / "data")
    held_out = data.global_examples("test")
    assert held_out is not None
    difference = largest_difference_to_peft(tmp_path / "run", shared / "models" / "stories260K", held_out)
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("partition", "clients"),
    [
        ("{kind: by_key, key: task}", 100),
        ("{kind: dirichlet, clients: 200, key: category, alpha: 0.3}", 200),
    ],
)
def test_super_natural_instructions_with_many_clients(shared, tmp_path, partition, clients):
    overrides = [
        f"data.source={shared}/data/instruct/superni_train.jsonl.gz",
        f"data.partition={partition}",
        "federation={rounds: 1, clients_per_round: 20}",
        "local.steps=1",
        "evaluation={max_examples: 1}",
    ]
    metrics = fedloom.run(ROOT / "recipes" / "superni.yaml", tmp_path / "run", overrides).metrics
    start = read_events(tmp_path / "run" / "events.jsonl")[0]
    assert start["clients"] == clients
    assert np.isfinite(metrics["eval"]["loss"])


def test_the_embedded_adapter_loads_in_peft_and_answers(tmp_path):
    values = recipe(write_examples(tmp_path / "words.jsonl"), federation={"rounds": 1})
    result = fedloom.run(values, tmp_path / "run")
    data, _ = prepare_data(load_recipe(tmp_path / "run" / "recipe.yaml"), tmp_path / "run" / "data")
    base = load_recipe(tmp_path / "run" / "recipe.yaml").model
    assert base.base == "pocket"
    examples = data.examples("hal", "test")
    pocket = Path(fedloom.__file__).parent / "model" / "pocket"
    assert largest_difference_to_peft(tmp_path / "run", pocket, examples) < 1e-5
    assert evaluate_run(tmp_path / "run") == result.metrics["eval"]
    assert isinstance(generate_answer(tmp_path / "run", "word 1 of: river lamp", 8, with_adapter=True), str)


def test_exact_match_is_what_greedy_generation_gives(tmp_path):
    source = write_examples(tmp_path / "words.jsonl")
    values = recipe(source, federation={"rounds": 3}, evaluation={"exact_match": True}, local={"learning_rate": 0.01})
    result = fedloom.run(values, tmp_path / "run")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    session = open_session(load_recipe(tmp_path / "run" / "recipe.yaml"), tmp_path / "run")
    tested = session.data.examples("hal", "test")
    prompts = {row["prompt"]: row["response"] for row in rows}
    correct = 0
    _, tokenizer = prepare_data(session.recipe, tmp_path / "run" / "data")
    for place in range(len(tested)):
        text = tokenizer.decode(tested.tokens(place)[~tested.trained(place)], skip_special_tokens=True).strip()
        correct += generate_answer(tmp_path / "run", text, 12, with_adapter=True) == prompts[text]
    assert result.metrics["eval"]["clients"]["hal"]["accuracy"] == pytest.approx(correct / len(tested))
