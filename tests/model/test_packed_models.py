"""A packed batch through any causal language model of transformers equals its sequences one by one."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.model.adapters.lora import GroupedLora
from fedloom.model.attention import PackedAttention
from fedloom.model.attention_layout import AttentionLayout, padded_lengths
from fedloom.model.base import POCKET, load_base
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.forward import label_logits, label_losses, score_labels
from fedloom.model.packing import Example, pack
from fedloom.recipe.adapter_schema import LoraConfig
from fedloom.recipe.model_schema import ModelConfig

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
    tmp_path = tmp_path / request.param
    tmp_path.mkdir()
    config = AutoConfig.for_model(request.param, **{**SIZES, **MODELS[request.param]})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    return tmp_path


@pytest.fixture
def wrapped(folder):
    """Model and adapters, all linear layers adapted; layers of the Llama family computed by our own."""
    model = load_base(ModelConfig(base=str(folder), dtype="float32"), torch.device("cpu"))
    lora = GroupedLora(model, LoraConfig(targets="all-linear", rank=2))
    use_own_layers(model, lora)
    assert lora.own_layers == (folder.name in {"llama", "qwen2", "mistral"})
    assert lora.plain_head == (folder.name != "gemma2")
    return model, lora


def adapters_of(lora, count):
    """Adapters whose every factor matters."""
    return [{name: value + 0.01 for name, value in lora.initial(seed).items()} for seed in range(count)]


def test_packed_equals_one_by_one(folder, wrapped):
    model, lora = wrapped
    lora.load([lora.initial(0)] * 2, trainable=False)
    examples = [Example(tokens, np.ones(len(tokens), dtype=bool)) for tokens in sequences()]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        packed = label_logits(model, lora, pack([examples[:2], examples[2:]]))
        single = torch.cat([reference(torch.from_numpy(s)[None]).logits[0, :-1] for s in sequences()])
    assert packed.shape == single.shape
    assert (packed - single).abs().max() < 3e-5 * single.abs().max()


def test_losses_are_those_of_the_logits(wrapped):
    model, lora = wrapped
    lora.load(adapters_of(lora, 2))
    generator = np.random.default_rng(1)
    examples = [Example(tokens, generator.random(len(tokens)) < 0.5) for tokens in sequences()]
    batch = pack([examples[:2], examples[2:]])
    logits = label_logits(model, lora, batch)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    torch.testing.assert_close(label_losses(model, lora, batch), expected, atol=1e-5, rtol=1e-5)
    losses, correct, predicted = score_labels(model, lora, batch)
    torch.testing.assert_close(losses, expected.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(predicted, logits.argmax(-1))
    assert torch.equal(correct, predicted == batch.labels)
    weights = torch.linspace(0.5, 1.5, len(batch.labels))
    lora.backward((expected * weights).sum())
    through_logits = lora.gradients.clone()
    lora.backward((label_losses(model, lora, batch) * weights).sum())
    assert (lora.gradients - through_logits).norm() < 1e-5 * through_logits.norm()


def test_gradients_reach_every_group_and_no_other(wrapped):
    model, lora = wrapped
    adapters = adapters_of(lora, 3)
    groups = [[Example(tokens, np.ones(len(tokens), dtype=bool)) for tokens in sequences()[i : i + 2]] for i in (0, 1)]

    def gradients(adapters, groups):
        lora.load(adapters)
        lora.backward(label_logits(model, lora, pack(groups)).float().square().sum())
        return lora.gradients.clone()

    together = gradients(adapters, [groups[0], [], groups[1]])
    assert torch.equal(together[1], torch.zeros_like(together[1]))
    for row, adapter, group in ((0, adapters[0], groups[0]), (2, adapters[2], groups[1])):
        assert torch.equal(together[row], gradients([adapter], [group])[0])


def test_own_layers_have_the_gradients_of_transformers(folder, wrapped):
    model, lora = wrapped
    if not lora.own_layers:
        pytest.skip("computed by transformers in any case")
    plain = load_base(ModelConfig(base=str(folder), dtype="float32"), torch.device("cpu"))
    reference = GroupedLora(plain, LoraConfig(targets="all-linear", rank=2))
    examples = [Example(tokens, np.arange(len(tokens)) % 3 == 2) for tokens in sequences()]
    batch = pack([examples[:2], examples[2:]])
    found = []
    for some_model, some_lora in ((model, lora), (plain, reference)):
        some_lora.load(adapters_of(some_lora, 2))
        loss = label_losses(some_model, some_lora, batch).sum()
        some_lora.backward(loss)
        found.append((loss.item(), some_lora.gradients.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert (found[0][1] - found[1][1]).norm() < 2e-5 * found[1][1].norm()


def test_shared_prompts_change_nothing_but_the_work(wrapped):
    model, lora = wrapped
    adapter = adapters_of(lora, 1)[0]
    generator = np.random.default_rng(2)
    prompts = [generator.integers(3, 96, length) for length in (21, 40)]
    examples = []
    for number, length in enumerate((9, 3, 30, 12, 600)):
        tokens = np.concatenate([prompts[number % 2], generator.integers(3, 96, length)])
        examples.append(Example(tokens, np.arange(len(tokens)) >= len(tokens) - max(2, length // 2)))
    shared, apart = pack([examples]), pack([[example] for example in examples])
    assert shared.tokens == sum(len(e.tokens) for e in examples) - 2 * 21 - 40
    assert shared.example_tokens.sum() == apart.example_tokens.sum() == apart.tokens

    def outcome(batch, groups):
        lora.load([adapter] * groups)
        losses = label_losses(model, lora, batch)
        lora.backward(losses.sum())
        return losses[batch.label_examples.argsort(stable=True)].detach(), lora.gradients.sum(0)

    losses, gradients = outcome(shared, 1)
    expected, expected_gradients = outcome(apart, len(examples))
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)
    assert (gradients - expected_gradients).norm() < 1e-4 * expected_gradients.norm()


def test_lengths_are_padded_by_themselves():
    lengths = np.arange(1, 2000)
    padded = padded_lengths(lengths)
    assert (padded >= lengths).all()
    assert (padded <= np.maximum(1.25 * lengths, lengths + 8)).all()
    assert (np.diff(padded) >= 0).all()


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2), (6, 1)])
def test_layout_finds_every_row_again(heads, key_heads):
    lengths, prompts = np.array([20, 7, 200, 1, 33, 20]), [-1, 0, 0, -1, -1, 4]
    layout = AttentionLayout(lengths, prompts)
    index = layout.heads(heads, key_heads)
    rows = torch.arange(int(lengths.sum()) * (heads + 2 * key_heads))
    assert torch.equal(rows[index.gather][index.scatter], rows)
    outputs = torch.arange(int(lengths.sum()) * heads)
    assert torch.equal(outputs[index.out_gather][index.out_scatter], outputs)
    assert torch.equal(rows[index.gather][index.shared_places], index.shared_rows)
    # Sequences 1, 2 and 5 see shared prompts of 20, 20 and 33 tokens: keys and values of every key head.
    assert len(index.shared_rows) == 2 * key_heads * (20 + 20 + 33)
    assert index.queries - len(index.nothing) == len(outputs)


def test_variable_lengths_see_prompts_and_what_precedes():
    lengths, prompts = np.array([20, 7, 40, 1, 33, 20]), [-1, 0, 0, -1, -1, 4]
    layout = AttentionLayout(lengths, prompts)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, int(lengths.sum()), 2, 8, generator=generator)
    places = layout.variable_length
    keys, values = k[places.keys], v[places.keys]
    outputs = []
    for number in range(len(lengths)):
        own = slice(*places.query_starts[number : number + 2])
        seen = slice(*places.key_starts[number : number + 2])
        mask = torch.ones(own.stop - own.start, seen.stop - seen.start).tril(
            seen.stop - seen.start - own.stop + own.start
        )
        one, two, three = (x.transpose(0, 1) for x in (q[own], keys[seen], values[seen]))
        attended = torch.nn.functional.scaled_dot_product_attention(one, two, three, attn_mask=mask.bool())
        outputs.append(attended.transpose(0, 1))
    packed = PackedAttention.apply(torch.cat([q, k, v], 1).flatten(1), layout, 2, 2, 8**-0.5, None, None)
    torch.testing.assert_close(packed, torch.cat(outputs).flatten(1), atol=1e-5, rtol=1e-5)
    assert places.longest_query == 40
    assert places.longest_key == 60
    assert AttentionLayout(lengths).variable_length.keys is None
