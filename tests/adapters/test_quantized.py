"""Adapters on a quantised base: they learn, cohorts are exact, and PEFT computes the same on the same base."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import fedloom
from fedloom.inspection import evaluate_run, generate_answer
from fedloom.model.adapters.registry import adapter_class
from fedloom.model.base import POCKET, read_weights
from fedloom.model.forward import label_logits
from fedloom.model.packing import Example, pack
from fedloom.recipe import load_recipe
from fedloom.session import open_model
from tests.adapters.kinds import settings
from tests.adapters.test_exports import SEQUENCES, plain_logits, stirred
from tests.federated_runs import outcome

pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")


@pytest.mark.long
@pytest.mark.parametrize("quantization", ["8bit", pytest.param("4bit", marks=pytest.mark.slow)])
def test_a_federation_over_a_quantized_base(source: Path, tmp_path: Path, quantization: str) -> None:
    values = settings(source, "lora", model={"quantization": quantization})
    metrics = fedloom.run(values, tmp_path / "run").metrics
    assert metrics["eval"]["loss"] < metrics["baselines"]["base"]["loss"]
    fedloom.run(values, tmp_path / "alone", ["runtime.cohort=1"])
    assert outcome(tmp_path / "alone") == outcome(tmp_path / "run")
    assert evaluate_run(tmp_path / "run")["loss"] == pytest.approx(metrics["eval"]["loss"], rel=1e-5)
    assert isinstance(generate_answer(tmp_path / "run", "word 1 of: river stone", 2, True), str)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize(
    "kind",
    ["lora", "ia3", pytest.param("bitfit", marks=pytest.mark.slow), pytest.param("bottleneck", marks=pytest.mark.slow)],
)
def test_exports_have_the_logits_of_training(kind: str, quantization: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = AutoConfig.for_model("llama", **sizes, num_attention_heads=4, pad_token_id=0, eos_token_id=2)
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    (base / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    section = {"base": str(base), "dtype": "float32", "quantization": quantization, "adapter": {"kind": kind}}
    recipe = load_recipe({"model": section, "runtime": {"device": "cpu"}})
    model, grouped = open_model(recipe)
    adapter = stirred(grouped, 1)
    grouped.load([adapter])
    examples = [Example(tokens, np.ones(len(tokens), dtype=bool)) for tokens in SEQUENCES]
    packed = label_logits(model, grouped, pack([examples]))
    grouped.backward(packed.square().sum())
    assert all(bool(gradient.any()) for gradient in grouped.split(grouped.gradients).values())
    (tmp_path / "adapter").mkdir()
    grouped.write(tmp_path / "adapter", adapter, model, recipe.model)
    opened = adapter_class(kind).opened(read_weights(recipe.model, torch.device("cpu")), tmp_path / "adapter").eval()
    with torch.no_grad():
        plain = plain_logits(opened, SEQUENCES)
    # An activation at the edge between two of 256 steps may be rounded to the other one.
    assert (packed - plain).abs().max() < (1e-2 if quantization == "8bit" else 1e-5) * plain.abs().max()
