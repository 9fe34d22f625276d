"""Mistakes about kinds of adapters: one clear line before any weight is read."""

from pathlib import Path

import pytest

import fedloom.model.check
from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains

KIND = "model.adapter.kind"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model.adapter={kind: dora, rank: [{rank: 4, share: 1}]}"], ["model.adapter.rank", "lora or rslora"]),
        (["model.adapter={kind: ia3, rank: 4}"], ["model.adapter.rank: unknown key", "feedforward"]),
        (["model.adapter={kind: ia3, feedforward: [up_proj]}"], ["model.adapter", "'up_proj' has no effect"]),
        (
            ["model.adapter={kind: ia3, targets: all-linear, feedforward: [up_prj]}"],
            ["model.adapter.feedforward: 'up_prj' matches none of the layers", "mean 'up_proj'"],
        ),
        (["model.adapter={kind: bitfit, targets: [q_prj]}"], ["model.adapter.targets: 'q_prj'", "mean 'q_proj'"]),
        (["model.adapter={kind: bottleneck, layers: [7]}"], ["model.adapter.layers: 7 is no decoder layer"]),
        (["model.adapter={kind: bottleneck, activation: rellu}"], ["model.adapter.activation", "mean 'relu'"]),
        (["model.adapter={kind: full, layers: [1]}"], ["model.adapter.layers: unknown key; allowed here: kind"]),
        (["model.adapter=full", "runtime.cohort=4"], ["runtime.cohort: 4", "one client after another"]),
        (["model.adapter=full", "model.dtype=bfloat16"], ["model.dtype: full fine-tuning", "float32"]),
        (
            ["model.adapter=full", "runtime={memory_gb: 1, activation_checkpointing: false}"],
            ["runtime.memory_gb has no effect: full"],
        ),
        (["model.adapter=full", "runtime={kind: distributed, processes: 2, threads: null}"], ["runtime.threads"]),
        (["model.adapter=full", "runtime.prefix_cache_gb=1"], ["runtime.prefix_cache_gb has no effect"]),
        (["model.adapter=full", "federation.private=[lora_A]"], ["federation.private: 'lora_A' matches no tensor"]),
        (["model.adapter=full", "model.quantization=8bit"], ["model.quantization: full trains the weights"]),
        (["model.adapter=dora", "model.quantization=8bit"], ["model.quantization: dora needs the norms"]),
        (["model.quantization=2bit"], ["model.quantization: '2bit'", "8bit"]),
        (["model.adapter=doora"], [f"{KIND}: 'doora' is not one of", "mean 'dora'"]),
    ],
)
def test_mistakes_are_one_line(refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]) -> None:
    values = recipe(rows, **SMALL)
    if any(override.startswith("model.adapter=") for override in overrides):
        del values["model"]["adapter"]
    options = [word for override in overrides for word in ("--set", override)]
    contains(refused_early(values, *options), *parts)


def test_quantization_needs_bitsandbytes(refused_early: Refused, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where it is not installed.
    monkeypatch.setattr(fedloom.model.check, "find_spec", lambda name: None)
    told = refused_early(recipe(rows, **SMALL), "--set", "model.quantization=8bit")
    contains(told, "8bit needs bitsandbytes", "fedloom[quantized]")
