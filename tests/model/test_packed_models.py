"""A packed batch through any causal language model of transformers equals its sequences one by one."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.model.attention import AttentionLayout, padded_lengths
from fedloom.model.base import POCKET, load_base
from fedloom.model.forward import label_logits
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.packing import Example, pack
from fedloom.recipe.schema import LoraConfig, ModelConfig

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6, "head_dim": 8, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0},
    "gemma3_text": {"sliding_window": 6, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    "gpt_neox": {},
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
}
LENGTHS = (5, 33, 1, 18, 700)


def sequences(vocabulary: int = 96) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(3, vocabulary, length) for length in LENGTHS]


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **{**SIZES, **MODELS[request.param]})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    return tmp_path


def test_packed_equals_one_by_one(folder):
    model = load_base(ModelConfig(base=str(folder), dtype="float32"), torch.device("cpu"))
    lora = GroupedLora(model, LoraConfig(targets="all-linear"))
    lora.load([lora.initial(0)] * 2, trainable=False)
    examples = [Example(tokens, np.ones(len(tokens), dtype=bool)) for tokens in sequences()]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        packed = label_logits(model, lora, pack([examples[:2], examples[2:]]))
        single = torch.cat([reference(torch.from_numpy(s)[None]).logits[0, :-1] for s in sequences()])
    assert packed.shape == single.shape
    assert (packed - single).abs().max() < 3e-5 * single.abs().max()


def test_gradients_reach_every_group_and_no_other(folder):
    model = load_base(ModelConfig(base=str(folder), dtype="float32"), torch.device("cpu"))
    lora = GroupedLora(model, LoraConfig(targets="all-linear", rank=2))
    adapters = [{name: value + 0.01 for name, value in lora.initial(seed).items()} for seed in range(3)]
    groups = [[Example(tokens, np.ones(len(tokens), dtype=bool)) for tokens in sequences()[i : i + 2]] for i in (0, 1)]

    def gradients(adapters, groups):
        lora.load(adapters)
        lora.backward(label_logits(model, lora, pack(groups)).float().square().sum())
        return lora.gradients.clone()

    together = gradients(adapters, [groups[0], [], groups[1]])
    assert torch.equal(together[1], torch.zeros_like(together[1]))
    for row, adapter, group in ((0, adapters[0], groups[0]), (2, adapters[2], groups[1])):
        assert torch.equal(together[row], gradients([adapter], [group])[0])


def test_lengths_are_padded_by_themselves():
    lengths = np.arange(1, 2000)
    padded = padded_lengths(lengths)
    assert (padded >= lengths).all()
    assert (padded <= np.maximum(1.25 * lengths, lengths + 8)).all()
    assert (np.diff(padded) >= 0).all()
    layout = AttentionLayout.of(lengths[:50])
    assert torch.equal(layout.pad_index[layout.unpad_index], torch.arange(int(lengths[:50].sum())))
