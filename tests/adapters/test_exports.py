"""What is written computes on a plain transformers model what a cohort has trained: logits, and gradients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from pydantic import TypeAdapter
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.errors import UserError
from fedloom.model.adapter_folder import export_adapter
from fedloom.model.adapters.registry import adapter_class, build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.forward import label_logits
from fedloom.model.packing import Example, pack
from fedloom.model.peft_format import PeftFormat
from fedloom.recipe.adapter_schema import AdapterConfig
from fedloom.recipe.model_schema import ModelConfig
from tests.adapters.kinds import SECTIONS

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
# With and without biases, with tied embeddings, with weights that lie the other way round.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}
FEEDFORWARD = {"llama": "down_proj", "qwen2": "down_proj", "gpt2": "c_fc"}
GENERATOR = np.random.default_rng(0)
SEQUENCES = [GENERATOR.integers(3, 96, length) for length in (5, 33, 1, 18, 70)]


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    place = tmp_path / request.param
    config = AutoConfig.for_model(request.param, **SIZES, **MODELS[request.param], pad_token_id=0, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    (place / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    return place


def wrapped(folder: Path, kind: str) -> tuple[ModelConfig, Any, Any]:
    """A model with a kind of adapter on all of its layers that can have one."""
    section = dict(SECTIONS[kind][0])
    if kind in {"lora", "rslora", "dora", "ia3", "bitfit", "sparse"}:
        section["targets"] = "all-linear"
    if kind == "ia3":
        section["feedforward"] = [FEEDFORWARD[folder.name]]
    adapter = TypeAdapter(AdapterConfig).validate_python(section)
    config = ModelConfig(base=str(folder), dtype="float32", adapter=adapter)
    model = load_base(config, torch.device("cpu"))
    return config, model, build_adapter(model, config.adapter)


def stirred(grouped: Any, seed: int) -> dict[str, torch.Tensor]:
    """An adapter of which every entry matters."""
    generator = torch.Generator().manual_seed(seed)
    fresh = grouped.initial(seed)
    return {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


def packed_logits(model: Any, grouped: Any, adapters: list[dict[str, torch.Tensor]], groups: list[list[int]]) -> Any:
    grouped.load(adapters)
    examples = [[Example(SEQUENCES[i], np.ones(len(SEQUENCES[i]), dtype=bool)) for i in group] for group in groups]
    return label_logits(model, grouped, pack(examples, virtual_tokens=grouped.places))


def plain_logits(model: Any, sequences: list[np.ndarray]) -> torch.Tensor:
    return torch.cat([model(torch.from_numpy(tokens)[None]).logits[0, -len(tokens) : -1] for tokens in sequences])


@pytest.mark.parametrize("folder", ["qwen2"], indirect=True)
@pytest.mark.parametrize("kind", SECTIONS)
def test_untuned_is_the_base(folder: Path, kind: str) -> None:
    _, model, grouped = wrapped(folder, kind)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        packed = packed_logits(model, grouped, [grouped.untuned(grouped.initial(0))], [list(range(5))])
        plain = plain_logits(base, SEQUENCES)
    assert (packed - plain).abs().max() < 1e-5 * plain.abs().max()


@pytest.mark.parametrize("kind", SECTIONS)
def test_exports_have_the_logits_and_gradients_of_training(folder: Path, kind: str, tmp_path: Path) -> None:
    config, model, grouped = wrapped(folder, kind)
    adapter = stirred(grouped, 1)
    packed = packed_logits(model, grouped, [adapter], [list(range(5))])
    grouped.backward(packed.square().sum())
    gradients = grouped.unflatten(grouped.gradients[0])
    export_adapter(tmp_path / "adapter", adapter, model, grouped, config)
    assert all(torch.equal(value, adapter[name]) for name, value in grouped.read(tmp_path / "adapter").items())

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    opened = adapter_class(kind).opened(base, tmp_path / "adapter").eval()
    plain = plain_logits(opened, SEQUENCES)
    assert (packed - plain).abs().max() < 1e-5 * plain.abs().max()
    if grouped.virtual_tokens:
        return  # PEFT's names of what it trains are others: tests/model/test_virtual_tokens.py compares a step.
    if isinstance(grouped, PeftFormat):
        exported = grouped.exported(gradients)
        trained = {
            name: value
            for name, value in opened.named_parameters()
            if any(get_peft_model_state_dict(opened, state_dict={name: value}))
        }
    else:
        exported = gradients
        trained = dict(opened.named_parameters())
    for parameter in trained.values():
        parameter.requires_grad_(True)
    opened.zero_grad()
    plain_logits(opened, SEQUENCES).square().sum().backward()
    reference = {name: value.grad for name, value in trained.items() if value.grad is not None}
    if isinstance(grouped, PeftFormat):
        reference = get_peft_model_state_dict(opened, state_dict=reference)
    names = [name for name in exported if kind != "bitfit" or name.endswith(".bias")]
    both = [torch.cat([some[name].flatten() for name in names]) for some in (exported, reference)]
    assert (both[0] - both[1]).norm() < 1e-4 * both[1].norm()


@pytest.mark.parametrize("kind", [kind for kind in SECTIONS if adapter_class(kind).cohorts])
def test_groups_are_what_each_is_alone(folder: Path, kind: str) -> None:
    _, model, grouped = wrapped(folder, kind)
    adapters, groups = [stirred(grouped, seed) for seed in range(3)], [[0, 1], [], [2, 3, 4]]

    def outcome(adapters: list[Any], groups: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = packed_logits(model, grouped, adapters, groups)
        grouped.backward(logits.square().sum())
        return logits.detach(), grouped.gradients.clone()

    logits, gradients = outcome(adapters, groups)
    assert not gradients[1].any()
    singles = [outcome([adapters[place]], [groups[place]]) for place in (0, 2)]
    assert torch.equal(logits, torch.cat([single[0] for single in singles]))
    assert all(torch.equal(gradients[place], single[1][0]) for place, single in zip((0, 2), singles, strict=True))


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
@pytest.mark.parametrize("kind", SECTIONS)
def test_folders_that_do_not_fit_are_refused(folder: Path, kind: str, tmp_path: Path) -> None:
    _, _, grouped = wrapped(folder, kind)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        grouped.read(tmp_path / "empty")
