"""Mistakes about the model of a classification, told before a weight is read or, of the weights, before training."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from fedloom.errors import UserError
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import load_base
from fedloom.model.check import check_model, check_positions
from fedloom.model.classes import Classes
from fedloom.recipe.model_schema import ModelConfig
from fedloom.recipe.schema import RuntimeConfig
from fedloom.recipe.task_schema import TaskConfig
from tests.encoders import SIZES, tiny_bert, tiny_minilm, tiny_roberta

LINEAR = TaskConfig(kind="classification")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_bert(folder / "bert")
    tiny_roberta(folder / "roberta")
    tiny_minilm(folder / "minilm")
    return folder


def test_encoders_do_not_answer(place):
    with pytest.raises(UserError, match="is an encoder"):
        check_model(ModelConfig(base=str(place / "bert")), RuntimeConfig(), TaskConfig())


def test_heads_are_no_targets(place):
    config = ModelConfig(base=str(place / "roberta"), adapter={"targets": ["out_proj"]})
    with pytest.raises(UserError, match="'out_proj' matches no linear layer"):
        check_model(config, RuntimeConfig(), LINEAR)


def test_quantised_classifiers_are_refused(place):
    with pytest.raises(UserError, match=r"quantization: 4bit is not there yet for task.kind classification"):
        check_model(ModelConfig(base=str(place / "bert"), quantization="4bit"), RuntimeConfig(), LINEAR)


def test_positions_are_those_that_the_architecture_counts(place):
    # RoBERTa's first position is 2.
    config = ModelConfig(base=str(place / "roberta"))
    check_positions(config, SIZES["max_position_embeddings"] - 2, LINEAR)
    with pytest.raises(UserError, match="159 tokens exceed the model's 158 positions"):
        check_positions(config, SIZES["max_position_embeddings"] - 1, LINEAR)


def test_weights_without_a_pooler_are_told(place, tmp_path):
    config = json.loads((place / "bert" / "config.json").read_text())
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config))
    kept = {name: value for name, value in model.state_dict().items() if "pooler" not in name}
    model.save_pretrained(tmp_path / "bert", state_dict=kept)
    (tmp_path / "bert" / "tokenizer.json").write_bytes((place / "bert" / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match=r"lack 2 of the model's tensors, e.g. bert.pooler.dense.bias"):
        load_base(ModelConfig(base=str(tmp_path / "bert"), dtype="float32"), torch.device("cpu"), Classes("linear", 2))


def test_models_that_pool_in_another_way_are_told(place, tmp_path):
    torch.manual_seed(0)
    settings = {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "pad_token_id": 0}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("distilbert", **settings))
    model.save_pretrained(tmp_path / "distilbert")
    (tmp_path / "distilbert" / "tokenizer.json").write_bytes((place / "bert" / "tokenizer.json").read_bytes())
    config, classes = ModelConfig(base=str(tmp_path / "distilbert"), dtype="float32"), Classes("linear", 2)
    with pytest.raises(UserError, match="DistilBertForSequenceClassification"):
        build_adapter(load_base(config, torch.device("cpu"), classes), config.adapter, classes)
