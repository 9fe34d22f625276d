"""Mistakes about pruned clients: one clear line before any weight is read."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.model.base import POCKET
from tests.federated_runs import recipe
from tests.model.test_packed_models import MODELS, SIZES
from tests.user_errors import SMALL, Refused, contains

KEY = "local.pruning"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["local.pruning.rate=1"], [f"{KEY}.rate: 1 is not a number below 1"]),
        (["local.pruning.rate=-0.1"], [f"{KEY}.rate: -0.1 is not a number from 0 up"]),
        (["local.pruning.rates=0.5"], [f"{KEY}.rates: unknown key", "did you mean 'rate'"]),
        (["local.pruning.rate={adda: 0.5}"], [f"{KEY}.rate: 'adda' is no training client", "did you mean 'ada'"]),
        (["local.pruning={compute: slice}"], [f"{KEY}.compute: 'slice'", "did you mean 'sliced'"]),
        (["local.pruning={calibration_examples: 0}"], [f"{KEY}.calibration_examples: 0 is not a number from 1 up"]),
        (["local.pruning={}", "federation.algorithm=fedadam"], [f"{KEY}: ", "fedadam does something else", "ffa_lora"]),
        (["local.pruning={}", "federation.algorithm=median"], [f"{KEY}: ", "median does something else"]),
        (["local.pruning={}", "model.adapter=ia3"], [f"{KEY}: ", "lora or rslora", "not of ia3"]),
        (["local.pruning={}", "model.quantization=8bit"], [f"{KEY}: a quantised base"]),
        (["local.pruning={}", "federation.private=[layers.5]"], [f"{KEY}: federation.private says already"]),
        (["local.pruning={}", "federation.layers={}"], [f"{KEY}: federation.layers says already"]),
        (["local.pruning={}", "federation.participation.clock={}"], [f"{KEY}: federation.participation.clock"]),
        (
            ["local.pruning={}", "model.adapter.layers=[4, 5]", "runtime.prefix_cache_gb=1"],
            ["runtime.prefix_cache_gb has no effect: with local.pruning"],
        ),
    ],
)
def test_pruning(refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]) -> None:
    options = [word for override in overrides for word in ("--set", override)]
    values = recipe(rows, **SMALL)
    del values["model"]["adapter"]
    contains(refused_early(values, *options), *parts)


def test_models_whose_units_are_not_known(refused_early: Refused, rows: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "gpt2"
    config = AutoConfig.for_model("gpt2", **{**SIZES, **MODELS["gpt2"]})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((POCKET / file).read_bytes())
    values = recipe(rows, **SMALL, model={"base": str(folder), "adapter": {"rank": 2}})
    told = refused_early(values, "--set", "local.pruning.rate=0.5")
    contains(told, f"{KEY}: which heads and neurons a GPT2LMHeadModel has", "LlamaDecoderLayer", "RobertaLayer")
