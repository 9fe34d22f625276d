"""As many layers and neurons as clients' spectra ask for: a run, and that nothing but the clients' own data counts."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fedloom
from fedloom.model.tensor_names import layer_of
from tests.federated_runs import write_examples
from tests.layers.federations import Values, opened, settings

# Two spectra of two clients: a hundred passes forwards and backwards each.
pytestmark = pytest.mark.long

SMALL_ADAPTER = {"adapter": {"rank": 1, "targets": ["v_proj"], "layers": [3, 4, 5]}}


def lossless(source: Path, cohort: int) -> Values:
    layers = {"choose": "highest", "share": "lossless", "examples": 1, "warmup_steps": 1}
    sparse = {"share": "lossless"}
    values = settings(source, layers, sparse, federation={"rounds": 2, "clients_per_round": 2}, model=SMALL_ADAPTER)
    values["local"]["steps"], values["evaluation"] = 1, {"max_examples": 2, "exact_match": False}
    values["runtime"] = {"threads": 1, "cohort": cohort}
    return values


def test_a_run_with_lossless_shares(tmp_path: Path) -> None:
    source = write_examples(tmp_path / "words.jsonl", ("ada", "bo"), growth=9)
    found = []
    for cohort in (1, 2):
        out = fedloom.run(lossless(source, cohort), tmp_path / str(cohort)).out
        found.append(json.loads((out / "layers.json").read_text()))
    for key in ("chosen", "keep_share", "keep_shares", "bytes_up", "bytes_down"):
        assert found[0][key] == found[1][key]
    choice = found[0]
    shares = choice["keep_shares"]
    assert shares.keys() == {"ada", "bo"}
    assert all(0 <= share <= 1 for share in shares.values())
    assert shares["ada"] != shares["bo"]
    session, _ = opened(lossless(source, 1), tmp_path / "1")
    sizes = [len(session.data.examples(client, "train")) for client in shares]
    assert sizes[0] != sizes[1]
    expected = sum(size * share for size, share in zip(sizes, shares.values(), strict=True)) / sum(sizes)
    assert math.isclose(choice["keep_share"], expected, rel_tol=1e-12)
    number = max(1, math.ceil(3 * choice["keep_share"] - 1e-9))
    assert choice["chosen"] == [3, 4, 5][3 - number :]
    # After its warm-up a client trains no more of its private layers than its own share.
    for client, share in shares.items():
        folder = tmp_path / "1" / "clients" / client / "federated"
        first, second = (safetensors.torch.load_file(folder / f"{number}.safetensors") for number in (1, 2))
        for layer in {3, 4, 5} - set(choice["chosen"]):
            name = next(name for name in second if layer_of(name) == layer and "lora_B" in name)
            assert second[name].dtype == torch.float32
            neurons = len(second[name]) + 160
            assert (first[name] != 0).all()
            assert 0 < int((first[name] != second[name]).any(1).sum()) <= math.ceil(share * neurons)
