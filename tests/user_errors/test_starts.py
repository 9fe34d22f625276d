"""Mistakes about the adapter that training starts from: one clear line before any weight is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.model.base import POCKET
from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains

ADAPTER = {"kind": "lora", "rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]}


def starting(rows: Path, **adapter: Any) -> dict[str, Any]:
    values = recipe(rows, **SMALL)
    values["model"]["adapter"] = {**ADAPTER, "start": "finished/adapter", **adapter}
    return values


def test_the_folder_fits(rows: Path, finished: Path, tmp_path: Path) -> None:
    """What the refused ones below are variants of; relative to the current folder."""
    fedloom.run(starting(rows), tmp_path / "out")


@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        (
            {"start": "finished"},
            ["'finished' holds no adapter: it has none of adapter_config", "finished/adapter"],
        ),
        ({"start": "finished/adaptor"}, ["no such folder: 'finished/adaptor'", "did you mean 'finished/adapter'?"]),
        ({"start": "runs/x/adapter"}, ["model.adapter.start: no such folder", "in the current one"]),
        ({"kind": "rslora"}, ["model.adapter.kind: rslora, but model.adapter.start", "of kind lora"]),
        ({"kind": "dora"}, ["model.adapter.kind: dora", "of kind lora"]),
        ({"rank": 8}, ["model.adapter.rank: 8, but model.adapter.start: 'finished/adapter' holds one with 4"]),
        ({"alpha": 8.0}, ["model.adapter.alpha: 8.0, but", "with 16"]),
        ({"targets": ["q_proj", "v_proj"]}, ["has an adapter on model.layers.0.mlp.down_proj", "leave out"]),
        ({"targets": "all-linear"}, ["name model.layers.0.self_attn.k_proj, on which", "has no adapter"]),
        ({"layers": [1, 2]}, ["has an adapter on model.layers.0", "leave out"]),
        ({"rank": [{"rank": 4, "share": 1.0}]}, ["model.adapter", "start: needs one rank for all clients"]),
    ],
)
def test_folders_that_do_not_fit(
    refused_early: Refused, rows: Path, finished: Path, adapter: dict[str, Any], parts: list[str]
) -> None:
    contains(refused_early(starting(rows, **adapter)), *parts)


def test_full_fine_tuning_starts_from_a_base(refused_early: Refused, rows: Path) -> None:
    values = recipe(rows, **SMALL)
    values["model"]["adapter"] = {"kind": "full", "start": "finished/adapter"}
    contains(refused_early(values), "model.adapter.start: unknown key; allowed here: kind")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"peft_type": "VERA"}, ["PEFT's kind VERA", "LORA, IA3"]),
        ({"rank_pattern": {"q_proj": 8}}, ["layers of several ranks or scales"]),
        ({"alpha_pattern": {"q_proj": 8}}, ["layers of several ranks or scales"]),
        ({"use_dora": True}, ["model.adapter.kind: lora", "of kind dora"]),
    ],
)
def test_configs_of_other_kinds(
    refused_early: Refused, rows: Path, finished: Path, changes: dict[str, Any], parts: list[str]
) -> None:
    file = finished / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    contains(refused_early(starting(rows)), *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("adapter_config.json", b"{", ["'finished/adapter' is not readable"]),
        ("adapter_config.json", b"[]", ["holds no settings of an adapter"]),
        ("adapter_model.safetensors", b"half", ["'finished/adapter' is not readable"]),
        ("adapter_model.safetensors", None, ["has no adapter_model.safetensors"]),
        ("adapter_model.bin", b"pickle", ["has no adapter_model.safetensors", "pickled *.bin weights are never read"]),
    ],
    ids=["config", "list", "weights", "missing", "pickled"],
)
def test_damaged_folders(
    refused_early: Refused, rows: Path, finished: Path, name: str, content: bytes | None, parts: list[str]
) -> None:
    file = finished / "adapter" / name
    if content is None or name.endswith(".bin"):
        (finished / "adapter" / "adapter_model.safetensors").unlink()
    if content is not None:
        file.write_bytes(content)
    contains(refused_early(starting(rows)), *parts)


def test_a_base_of_another_size(refused_early: Refused, rows: Path, finished: Path, tmp_path: Path) -> None:
    base = shutil.copytree(POCKET, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"intermediate_size": 320}))
    values = starting(rows)
    values["model"]["base"] = str(base)
    contains(refused_early(values), "down_proj.lora_A.weight has shape [4, 416], expected [4, 320]")
