"""What a run on a classifier leaves: PEFT and transformers read it and compute the same logits; so do we, read back."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from fedloom.model.adapter_folder import export_adapter
from fedloom.model.adapters.registry import KINDS, adapter_class, adapter_layout, build_adapter
from fedloom.model.base import load_base
from fedloom.model.classes import Classes
from fedloom.model.forward import class_logits, pack_groups
from fedloom.recipe.adapter_schema import kind_configs
from fedloom.recipe.model_schema import ModelConfig
from tests.encoders import tiny_bert, tiny_roberta
from tests.model.test_classifiers import adapters_of, examples

LINEAR = Classes("linear", 3)
WORDS = Classes("label_words", 3, (17, 60, 41))
MODELS = {"bert": tiny_bert, "roberta": tiny_roberta}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return MODELS[request.param](tmp_path_factory.mktemp("models") / request.param)


def opened(folder: Path, kind: str, classes: Classes):
    config = ModelConfig(base=str(folder), dtype="float32", adapter=kind_configs()[kind](kind=kind))
    model = load_base(config, torch.device("cpu"), classes)
    return config, model, build_adapter(model, config.adapter, classes)


def plain_logits(model, classes, some):
    """One example after another through what others have opened."""
    found = []
    for example in some:
        types = (
            {} if example.token_types is None else {"token_type_ids": torch.tensor(example.token_types)[None].long()}
        )
        length = len(example.tokens)
        given = {"input_ids": torch.from_numpy(example.tokens)[None], "attention_mask": torch.ones(1, length).long()}
        logits = model(**given, **types).logits[0]
        # Virtual tokens come first.
        place = None if example.place is None else len(logits) - length + example.place
        found.append(logits if place is None else logits[place, list(classes.words)])
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("classes", [LINEAR, WORDS], ids=["linear", "label_words"])
@pytest.mark.parametrize("kind", KINDS)
def test_others_compute_the_same(folder, tmp_path, kind, classes):
    config, model, grouped = opened(folder, kind, classes)
    (adapter,) = adapters_of(grouped, 1)
    some = examples(folder, classes, (5, 33, 18))
    grouped.load([adapter], trainable=False)
    ours = class_logits(model, grouped, pack_groups(grouped, [some]))
    export_adapter(tmp_path / "adapter", adapter, model, grouped, config)
    again = grouped.read(tmp_path / "adapter")
    assert (
        again.keys()
        == adapter.keys()
        == adapter_layout(load_base(config, torch.device("cpu"), classes), config.adapter).shapes.keys()
    )
    assert all(torch.equal(again[name], adapter[name]) for name in adapter)
    auto = AutoModelForSequenceClassification if classes is LINEAR else AutoModelForMaskedLM
    options = {"num_labels": 3} if classes is LINEAR else {}
    base = auto.from_pretrained(folder, dtype=torch.float32, **options)
    plain = plain_logits(adapter_class(kind).opened(base, tmp_path / "adapter").eval(), classes, some)
    assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()
