"""Answers in batches are those of transformers' own generation, one prompt at a time."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fedloom.suites.answers_in_progress import shared_beginning
from fedloom.suites.generating import cut, fitted, keeps_keys_and_values
from fedloom.suites.generating import generate as generate_answers
from fedloom.suites.items import Limits

VOCABULARY = 97
ARCHITECTURES = {
    "llama": {},
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16},
    "mistral": {"sliding_window": 12, "head_dim": 16},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 256},
    "gpt_neox": {},
    "bloom": {"n_layer": 2, "n_head": 2},
    "mamba": {"state_size": 8, "expand": 2},
}


def generate(*arguments):
    return [answer.tokens for answer in generate_answers(*arguments)]


def model_of(kind: str):
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        # Random weights of the usual size give nearly equal logits.
        "initializer_range": 0.3,
        "init_std": 0.3,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
        # A tied head answers a random model's last word again and again.
        "tie_word_embeddings": False,
        **ARCHITECTURES[kind],
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings)).eval()


def prompts_of(lengths, beginning: int = 0):
    draws = np.random.default_rng(0)
    shared = draws.integers(5, VOCABULARY, beginning)
    return [np.concatenate([shared, draws.integers(5, VOCABULARY, length)]) for length in lengths]


def alone(model, prompt, longest: int, ends):
    given = torch.from_numpy(prompt)[None]
    with torch.no_grad():
        output = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=list(ends) or None,
            pad_token_id=0,
        )
    tokens = output[0, len(prompt) :].tolist()
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("beginning", [0, 40])
def test_greedy_answers_are_those_of_transformers(kind, beginning, monkeypatch):
    monkeypatch.setattr("fedloom.suites.answers_in_progress.MAX_ROWS", 4)
    model = model_of(kind)
    prompts = prompts_of([5, 31, 1, 17, 8, 8, 2, 23, 11, 3], beginning)
    # Words that the model comes to sooner or later end an answer, so that rows end at different times and are refilled.
    ends = [alone(model, prompt, 20, [])[place] for place, prompt in enumerate(prompts[:4], 8)]
    expected = [alone(model, prompt, 20, ends) for prompt in prompts]
    assert generate(model, prompts, Limits(max_new_tokens=20), None, ends) == expected
    assert len({len(answer) for answer in expected}) > 2
    assert keeps_keys_and_values(model) == (kind != "mamba")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_answer_is_the_same_whatever_is_asked_beside_it(temperature, monkeypatch):
    model = model_of("llama")
    prompts = prompts_of([5, 31, 17, 8, 23])
    limits = Limits(max_new_tokens=12, temperature=temperature, seed=4)
    together = generate(model, prompts, limits, None, [])
    assert generate(model, prompts[3:4], limits, None, []) == together[3:4]
    monkeypatch.setattr("fedloom.suites.answers_in_progress.MAX_ROWS", 2)
    assert generate(model, prompts[::-1], limits, None, []) == together[::-1]


def test_samples_follow_the_model_s_probabilities_and_their_keys():
    model = model_of("llama")
    prompt = prompts_of([9])[0]
    limits = Limits(max_new_tokens=1, temperature=2.0, seed=1)
    samples = [answer[0] for answer in generate(model, [prompt] * 2000, limits, None, [])]
    with torch.no_grad():
        expected = torch.softmax(model(torch.from_numpy(prompt)[None]).logits[0, -1].double() / 2.0, -1)
    seen = torch.bincount(torch.tensor(samples), minlength=VOCABULARY) / 2000
    # Five standard deviations of a share of 2000.
    assert bool(((seen - expected).abs() <= 5 * (expected * (1 - expected) / 2000).sqrt() + 1e-9).all())
    other = Limits(max_new_tokens=1, temperature=2.0, seed=2)
    assert [answer[0] for answer in generate(model, [prompt] * 20, other, None, [])] != samples[:20]


def test_adapters_of_peft_answer_as_in_peft():
    base = model_of("llama")
    lora = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    prompts = prompts_of([5, 12, 3])
    assert generate(lora, prompts, Limits(10), None, []) == [alone(lora, prompt, 10, []) for prompt in prompts]
    virtual = peft.get_peft_model(
        model_of("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    assert not keeps_keys_and_values(virtual)
    assert generate(virtual, prompts, Limits(10), None, []) == [alone(virtual, prompt, 10, []) for prompt in prompts]


def test_a_stop_string_ends_an_answer(shared):
    folder = shared / "models" / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompts = [np.array(tokenizer(text)["input_ids"]) for text in ("Once upon a time", "Lily saw a dog and")]
    whole = [tokenizer.decode(tokens) for tokens in generate(model, prompts, Limits(60), tokenizer, [])]
    stopped = generate(model, prompts, Limits(60, stop=(". She", "ball.")), tokenizer, [])
    texts = [tokenizer.decode(tokens) for tokens in stopped]
    assert [cut(text, [". She", "ball."]) for text in texts] == [cut(text, [". She", "ball."]) for text in whole]
    assert len(stopped[0]) < 60
    assert ". She" in texts[0]


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_answers_say_whether_they_were_cut_off_and_prompts_truncated(kind):
    model, prompts = model_of(kind), prompts_of([5, 100])
    model.config.max_position_embeddings = 64
    first, second = generate_answers(model, prompts, Limits(20), None, [])
    assert (len(first.tokens), first.cut_off, first.truncated) == (20, True, False)
    assert (len(second.tokens), second.cut_off, second.truncated) == (20, True, True)
    assert second.prompt.tolist() == prompts[1][-44:].tolist()
    ended = generate_answers(model, prompts[:1], Limits(20), None, [first.tokens[0]])[0]
    assert (ended.tokens, ended.cut_off) == ([], False)


def test_long_prompts_lose_their_first_tokens():
    prompt = np.arange(100)
    assert fitted(prompt, None, 50) is prompt
    assert fitted(prompt, 64, 16).tolist() == list(range(52, 100))
    assert fitted(prompt, 64, 1000).tolist() == list(range(68, 100))
    assert fitted(prompt, 200, 100).tolist() == list(range(100))


def test_what_prompts_share_leaves_each_a_token():
    shared = [np.array(tokens) for tokens in ([1, 2, 3, 4], [1, 2, 3], [1, 2, 5, 6])]
    assert shared_beginning(shared) == 2
    assert shared_beginning(shared[1:2] * 2) == 2
    assert shared_beginning([np.array([1]), np.array([1, 2])]) == 0


def test_a_shared_beginning_is_computed_once():
    model, seen = model_of("llama"), []
    model.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords["input_ids"].numel()), with_kwargs=True
    )
    generate(model, prompts_of([4] * 6, beginning=50), Limits(max_new_tokens=2), None, [])
    assert sum(seen) == 50 + 6 * 4 + 6
