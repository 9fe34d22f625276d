"""Virtual tokens of a cohort compute what PEFT computes with one adapter at a time, and train as it would."""

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.data.shards import ExampleSet
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import load_base
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.forward import label_logits, label_losses
from fedloom.model.packing import Example, pack
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import PrefixTuningConfig, PromptTuningConfig, PTuningConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.training.client import ClientWork, LocalTraining
from fedloom.training.cohort import train_cohort
from fedloom.training.optimizers import Sgd
from tests.model.test_packed_models import MODELS, SIZES

VIRTUAL = 5
KINDS = {
    "prompt_tuning": PromptTuningConfig(virtual_tokens=VIRTUAL),
    "p_tuning": PTuningConfig(virtual_tokens=VIRTUAL, hidden_size=12),
    "prefix_tuning": PrefixTuningConfig(virtual_tokens=VIRTUAL),
}
# Own layers with grouped-query attention and with a window; transformers' layers with heads of their own size, with
# capped scores and scaled embeddings, with learnt positions.
ARCHITECTURES = ("llama", "mistral", "qwen3", "gemma2", "gemma3_text", "gpt2")
# A beginning that is long enough to be computed once, one that is not, and texts of their own.
BEGINNING = np.arange(3, 23)


def texts():
    generator = np.random.default_rng(0)
    own = [generator.integers(3, 96, length) for length in (5, 33, 1, 18, 70)]
    return [np.concatenate([BEGINNING, own[0]]), own[1], np.concatenate([BEGINNING, own[2]]), own[3], own[4]]


@pytest.fixture(params=ARCHITECTURES)
def folder(request, tmp_path):
    return written(request.param, tmp_path)


def written(name, folder):
    torch.manual_seed(0)
    sizes = {**SIZES, **MODELS[name]}
    if name == "gpt2":
        # It knows no key heads apart from query heads, but PEFT would believe it.
        del sizes["num_key_value_heads"]
    config = AutoConfig.for_model(name, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
    (folder / name / "tokenizer.json").write_text("{}")
    return folder / name


def opened(folder, kind):
    model = load_base(ModelConfig(base=str(folder), dtype="float32"), torch.device("cpu"))
    grouped = build_adapter(model, KINDS[kind])
    use_own_layers(model, grouped)
    return model, grouped


def adapters_of(grouped, count):
    """Adapters at which everything that is trained matters."""
    return [{name: value + 0.3 for name, value in grouped.initial(seed).items()} for seed in range(count)]


def in_peft(folder, model, grouped, adapter):
    """A plain model with one adapter, as PEFT trains it."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    config = grouped.peft_config(model, adapter)
    config.task_type = "CAUSAL_LM"
    plain = peft.get_peft_model(base, config)
    encoder = plain.prompt_encoder.default
    encoder.load_state_dict({in_encoder(name): value for name, value in adapter.items()})
    return plain, dict(encoder.named_parameters())


def in_encoder(name):
    """PEFT's name of a tensor within its encoder."""
    return "embedding.weight" if name == "prompt_embeddings" else name.removeprefix("prompt_encoder.")


@pytest.mark.parametrize("kind", KINDS)
def test_packed_logits_are_those_of_peft(folder, kind):
    model, grouped = opened(folder, kind)
    assert grouped.own_layers == (folder.name in {"llama", "mistral"})
    adapters = adapters_of(grouped, 2)
    examples = [Example(text, np.ones(len(text), dtype=bool)) for text in texts()]
    grouped.load(adapters, trainable=False)
    with torch.no_grad():
        packed = label_logits(model, grouped, pack([examples[:2], examples[2:]], virtual_tokens=grouped.places))
        plain = [in_peft(folder, model, grouped, adapter)[0] for adapter in adapters]
        single = torch.cat(
            [
                plain[number > 1](torch.from_numpy(text)[None]).logits[0, -len(text) : -1]
                for number, text in enumerate(texts())
            ]
        )
    assert packed.shape == single.shape
    assert (packed - single).abs().max() < 3e-5 * single.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_step_of_a_cohort_is_that_of_peft_and_torch(tmp_path, architecture, kind):
    """Two clients in one pass, of unequal data, one step of SGD each."""
    folder = written(architecture, tmp_path)
    model, grouped = opened(folder, kind)
    # Large, so that what moves is not lost in the rounding of where it started.
    rate = 1e4
    owned = [texts()[:3], texts()[3:]]
    masks = [[np.arange(len(text)) > len(text) // 2 for text in some] for some in owned]
    adapters = adapters_of(grouped, 2)
    work = [
        ClientWork(str(client), ExampleSet.from_examples(owned[client], masks[client]), [np.arange(len(some))], start)
        for client, (some, start) in enumerate(zip(owned, adapters, strict=True))
    ]
    results = train_cohort(model, grouped, work, LocalTraining(Sgd(0.0, 0.0), rate, None, 1))
    for client, result in enumerate(results):
        plain, trained = in_peft(folder, model, grouped, adapters[client])
        losses = []
        for text, mask in zip(owned[client], masks[client], strict=True):
            logits = plain(torch.from_numpy(text)[None]).logits[0, -len(text) : -1]
            every = torch.nn.functional.cross_entropy(logits, torch.from_numpy(text[1:]), reduction="none")
            losses.append(every[torch.from_numpy(mask[1:])])
        optimizer = torch.optim.SGD(trained.values(), lr=rate)
        torch.cat(losses).mean().backward()
        optimizer.step()
        assert result.loss == pytest.approx(float(torch.cat(losses).detach().mean()), rel=1e-5)
        for name, start in adapters[client].items():
            moved = result.adapter[name] - start
            expected = trained[in_encoder(name)].detach() - start
            assert float(expected.abs().max()) > 0
            assert (moved - expected).norm() < 1e-4 * expected.norm(), name


@pytest.mark.parametrize("kind", KINDS)
def test_clients_of_a_pass_do_not_touch_each_other(tmp_path, kind):
    model, grouped = opened(written("llama", tmp_path), kind)
    adapters = adapters_of(grouped, 3)
    examples = [Example(text, np.arange(len(text)) % 3 == 2) for text in texts()]
    groups = [examples[:2], examples[2:]]

    def gradients(adapters, groups):
        grouped.load(adapters)
        grouped.backward(label_losses(model, grouped, pack(groups, virtual_tokens=grouped.places)).sum())
        return grouped.gradients.clone()

    together = gradients(adapters, [groups[0], [], groups[1]])
    assert torch.equal(together[1], torch.zeros_like(together[1]))
    for row, adapter, group in ((0, adapters[0], groups[0]), (2, adapters[2], groups[1])):
        assert torch.equal(together[row], gradients([adapter], [group])[0])


def test_a_fresh_prefix_is_what_a_cache_holds_of_words(folder):
    _, grouped = opened(folder, "prefix_tuning")
    generator = torch_generator(3, "virtual tokens")
    words = torch.randint(96, (1, VIRTUAL), generator=generator)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        cache = base(words, use_cache=True).past_key_values
    expected = torch.cat([x[0].transpose(0, 1).flatten(1) for one in cache.layers for x in (one.keys, one.values)], 1)
    found = grouped.initial(3)["prompt_embeddings"]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_adapter_there_is_the_base(tmp_path, kind):
    folder = written("llama", tmp_path)
    model, grouped = opened(folder, kind)
    fresh = grouped.initial(0)
    examples = [Example(text, np.ones(len(text), dtype=bool)) for text in texts()]
    found = []
    for adapter in (grouped.untuned(fresh), fresh):
        grouped.load([adapter], trainable=False)
        with torch.no_grad():
            found.append(label_logits(model, grouped, pack([examples], virtual_tokens=grouped.places)))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        single = torch.cat([base(torch.from_numpy(text)[None]).logits[0, :-1] for text in texts()])
    assert (found[0] - single).abs().max() < 3e-5 * single.abs().max()
    assert (found[1] - single).abs().max() > 1e-2 * single.abs().max()


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), max_size=4), min_size=1, max_size=4).filter(any),
    virtual=st.integers(1, 20),
    share=st.booleans(),
)
def test_every_group_has_its_places_and_every_text_begins_after_them(lengths, virtual, share):
    # All texts begin alike, so that long ones share their beginning.
    groups = [[Example(np.arange(1, n + 1), np.arange(n) >= n // 2) for n in some] for some in lengths]
    batch = pack(groups, share_prompts=share, virtual_tokens=virtual)
    rows, sources = batch.virtual_rows.numpy(), batch.virtual_sources.numpy()
    positions, tokens = batch.position_ids[0].numpy(), batch.input_ids[0].numpy()
    owner = np.searchsorted(batch.group_starts, rows, side="right") - 1
    np.testing.assert_array_equal(sources, owner * virtual + positions[rows])
    assert set(owner) == {group for group, some in enumerate(lengths) if some}
    text = np.setdiff1d(np.arange(batch.tokens), rows)
    # The text of place n is n + 1.
    np.testing.assert_array_equal(positions[text], virtual + tokens[text] - 1)
    without = pack(groups, share_prompts=share)
    assert without.tokens == len(text)
    np.testing.assert_array_equal(np.sort(batch.labels), np.sort(without.labels))
    np.testing.assert_array_equal(batch.example_tokens, without.example_tokens)
