"""Where clients keep a part of the adapter, an algorithm's rule works on the rest of it only."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fedloom
from fedloom.aggregation import ClientRound
from fedloom.aggregation.fedprox import ProximalTerm
from fedloom.training.shared_entries import SharedOnly
from tests.federated_runs import recipe, write_examples


def test_a_rule_sees_and_changes_shared_entries_only():
    places = torch.tensor([0, 3])
    rule = SharedOnly(ProximalTerm(0.5), places, lambda vector: {"w": vector})
    start = torch.tensor([1.0, 2.0, 3.0, 4.0])
    memory = rule.begin(ClientRound(start, start, {}, {}, lambda vector: {"all": vector}))
    gradients = torch.zeros(4)
    rule.before_clipping(start + 1, gradients, memory)
    assert gradients.tolist() == [0.5, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("name", ["fedprox", "scaffold", "feddyn"])
def test_private_layers_train_as_under_fedavg_in_the_first_round(name, tmp_path):
    """All rules start from nothing to correct, so a first round differs from FedAvg's by its penalty at most."""
    values = recipe(
        write_examples(tmp_path / "words.jsonl"),
        federation={"rounds": 2, "clients_per_round": 3, "private": ["layers.0", "layers.1"]},
        evaluation={"max_examples": 1},
    )
    settings = {"fedprox": "{name: fedprox, mu: 1e-9}", "feddyn": "{name: feddyn, alpha: 1e-9}"}
    runs = {}
    for algorithm in ("fedavg", name):
        override = f"federation.algorithm={settings.get(algorithm, algorithm)}"
        runs[algorithm] = fedloom.run(values, tmp_path / algorithm, overrides=[override])
        assert json.loads((tmp_path / algorithm / "metrics.json").read_text())["rejected"] == 0
    first = [
        {
            path.parent.parent.name: own_layers(path)
            for path in (tmp_path / run).glob("clients/*/federated/1.safetensors")
        }
        for run in runs
    ]
    assert first[0].keys() == first[1].keys()
    assert len(first[0]) == 3
    for client, private in first[0].items():
        for tensor, value in private.items():
            torch.testing.assert_close(first[1][client][tensor], value, rtol=1e-4, atol=1e-6)


def own_layers(path: Path) -> dict[str, torch.Tensor]:
    own = {n: v for n, v in safetensors.torch.load_file(path).items() if n.startswith("adapter/")}
    assert own
    assert all(".layers.0." in name or ".layers.1." in name for name in own)
    return own
