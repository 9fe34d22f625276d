"""A classifier that starts from a trained adapter has the head that was trained with it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.errors import UserError
from fedloom.model.adapter_folder import export_adapter
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import load_base
from fedloom.model.classes import Classes
from fedloom.model.forward import class_logits, pack_groups
from fedloom.model.grouped_adapter import Layout
from fedloom.model.start import check_start, first_adapter
from fedloom.recipe.adapter_schema import LoraConfig, SparseConfig
from fedloom.recipe.model_schema import ModelConfig
from tests.encoders import tiny_roberta
from tests.model.test_classifiers import adapters_of, examples

LINEAR = Classes("linear", 3)
TARGETS = ["query", "value"]


def opened(base: Path, adapter: Any, classes: Classes) -> Any:
    config = ModelConfig(base=str(base), dtype="float32", adapter=adapter)
    model = load_base(config, torch.device("cpu"), classes)
    return config, model, build_adapter(model, adapter, classes)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lora", "sparse"])
def test_the_head_is_that_of_the_start(tmp_path: Path, kind: str) -> None:
    """Also of a LoRA of all ranks, which is what sparse changes are."""
    base = tiny_roberta(tmp_path / "base")
    former = SparseConfig(targets=TARGETS, share=0.1) if kind == "sparse" else LoraConfig(targets=TARGETS, rank=64)
    config, model, grouped = opened(base, former, LINEAR)
    (adapter,) = adapters_of(grouped, 1)
    some = examples(base, LINEAR, (5, 18))
    grouped.load([adapter], trainable=False)
    expected = class_logits(model, grouped, pack_groups(grouped, [some]))
    export_adapter(tmp_path / "adapter", adapter, model, grouped, config)

    start = LoraConfig(targets=TARGETS, rank=64, start=str(tmp_path / "adapter"))
    _, model, lora = opened(base, start, LINEAR)
    check_start(start, Layout(lora.shapes, lora.layers), lora.head_names)
    first = first_adapter(lora, start, 0)
    assert first.keys() == lora.shapes.keys()
    bare = {name.removeprefix("base_model.model."): value for name, value in adapter.items()}
    for name in lora.head_names:
        assert torch.equal(first[name], bare[name.removeprefix("base_model.model.")])
    lora.load([first], trainable=False)
    found = class_logits(model, lora, pack_groups(lora, [some]))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_start_without_head_is_refused(tmp_path: Path) -> None:
    base, words = tiny_roberta(tmp_path / "base"), Classes("label_words", 3, (17, 60, 41))
    config, model, grouped = opened(base, LoraConfig(targets=TARGETS), words)
    export_adapter(tmp_path / "adapter", grouped.initial(0), model, grouped, config)
    start = LoraConfig(targets=TARGETS, start=str(tmp_path / "adapter"))
    _, _, lora = opened(base, start, LINEAR)
    with pytest.raises(UserError, match=r"has no classification head \(classifier\."):
        check_start(start, Layout(lora.shapes, lora.layers), lora.head_names)
