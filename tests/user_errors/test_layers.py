"""Mistakes about chosen layers and sparse updates: one clear line before any weight is read."""

from pathlib import Path

import pytest

from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains

LAYERS, SPARSE = "federation.layers", "local.sparse"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["federation.layers={choose: importence}"], [f"{LAYERS}.choose: 'importence'", "mean 'importance'"]),
        (["federation.layers={share: 1.5}"], [f"{LAYERS}.share: 1.5 is not a number up to 1 or 'lossless'"]),
        (["federation.layers={share: losless}"], [f"{LAYERS}.share: 'losless'", "mean 'lossless'"]),
        (["federation.layers={share: 0.5, number: 2}"], ["share and number exclude each other"]),
        (["federation.layers={number: 7}"], [f"{LAYERS}.number: 7, but the adapter has tensors in 6 layers"]),
        (["federation.layers={choose: random, noise: 0.1}"], ["noise has no effect on choose 'random'", "importance"]),
        (["federation.layers={choose: lowest, examples: 4}"], ["examples has no effect on choose 'lowest'"]),
        (["federation.layers={scale: 2.0}"], ["scale has no effect", "share: lossless"]),
        (["federation.layers={warmup_steps: 2}"], ["warmup_steps has no effect on choose 'importance'"]),
        (["federation.layers={share: 1, noise: 0.1}"], ["noise has no effect"]),
        (["federation.layers={}", "federation.private=[layers.5]"], [f"{LAYERS}: federation.private says already"]),
        (["federation.layers={}", "federation.algorithm=ditto"], [f"{LAYERS}: with ditto each client has"]),
        (["federation.layers={}", "federation.algorithm=fed_sb"], [f"{LAYERS}: fed_sb trains one small matrix"]),
        (["federation.layers={}", "federation.algorithm=fedsa_lora"], [f"{LAYERS}: fedsa_lora says itself"]),
        (["federation.layers={}", "model.adapter=prompt_tuning"], [f"{LAYERS}: the tensors of prompt_tuning belong"]),
        (["federation.layers={}", "baselines=[fine_tuned]"], ["baselines: fine_tuned has no effect of its own"]),
        (
            ["federation.layers={others: frozen}", "evaluation.cross=true"],
            ["evaluation.cross has no effect: no client has an adapter of its own here"],
        ),
        (["local.sparse={}"], [f"{SPARSE} has no effect: it is about what clients keep to themselves"]),
        (["local.sparse={}", "federation.layers={others: frozen}"], [f"{SPARSE} has no effect"]),
        (
            ["local.sparse={share: lossless}", "federation.layers={}"],
            [f"{SPARSE}.share: lossless takes the clients' spectra from {LAYERS}.share"],
        ),
        (["local.sparse={momentum: 1}", "federation.layers={}"], [f"{SPARSE}.momentum: 1 is not a number below 1"]),
        (
            ["local.sparse={}", "federation.algorithm=fedsa_lora", "federation.private=[layers.5]"],
            [f"{SPARSE}: with fedsa_lora every B is private"],
        ),
    ],
)
def test_layers(refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]) -> None:
    options = [word for override in overrides for word in ("--set", override)]
    values = recipe(rows, **SMALL)
    del values["model"]["adapter"]
    contains(refused_early(values, *options), *parts)
