"""A run's base and adapter answer as transformers and PEFT answer with the adapter that the run exports."""

from __future__ import annotations

import pytest
import torch

from fedloom.data.conversation import Message
from fedloom.data.tokenizing import tokenize_prompt
from fedloom.model.adapters.registry import adapter_class
from fedloom.model.base import read_weights
from fedloom.recipe.schema import Recipe
from fedloom.suites.items import Limits
from fedloom.suites.subject import Subject, base_subject, open_bench
from tests.federated_runs import recipe, write_examples

QUESTIONS = ["word 1 of: river stone", "word 2 of: lamp winter garden", "word 1 of: doctor"]


def answered(model, bench, question: str, longest: int) -> str:
    tokens = torch.from_numpy(
        tokenize_prompt(bench.template.prompt_segments([Message("user", question)]), bench.tokenizer)
    )
    with torch.no_grad():
        output = model.generate(
            input_ids=tokens[None], attention_mask=torch.ones(1, len(tokens)), max_new_tokens=longest, do_sample=False
        )
    return bench.tokenizer.decode(output[0, len(tokens) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", ["lora", "prefix_tuning"])
def test_answers_of_base_and_adapter(kind, tmp_path):
    values = recipe(write_examples(tmp_path / "examples.jsonl"))
    values["model"]["adapter"] = {"kind": kind}
    bench = open_bench(Recipe.model_validate(values))
    torch.manual_seed(0)
    adapter = {name: value + 0.1 * torch.randn_like(value) for name, value in bench.grouped.initial(0).items()}
    base, tuned = base_subject(bench), Subject("adapter", bench, adapter)
    dialogues = [[Message("user", question)] for question in QUESTIONS]
    limits = Limits(max_new_tokens=12)
    plain = read_weights(bench.recipe.model, torch.device("cpu"))
    by_base = [answered(plain, bench, question, 12) for question in QUESTIONS]
    (tmp_path / "adapter").mkdir()
    bench.grouped.write(tmp_path / "adapter", adapter, bench.model, bench.recipe.model)
    opened = adapter_class(kind).opened(plain, tmp_path / "adapter")
    by_adapter = [answered(opened, bench, question, 12) for question in QUESTIONS]
    assert by_base != by_adapter
    for _ in range(2):
        assert base.answers(dialogues, limits) == by_base
        assert tuned.answers(dialogues, limits) == by_adapter


def test_completions_go_on_from_a_text_and_keep_white_space(tmp_path):
    bench = open_bench(Recipe.model_validate(recipe(write_examples(tmp_path / "examples.jsonl"))))
    subject = base_subject(bench)
    text = subject.completions(["Hello, my name"], Limits(max_new_tokens=20))[0]
    tokens = bench.tokenizer("Hello, my name", return_tensors="pt")
    with torch.no_grad():
        output = read_weights(bench.recipe.model, torch.device("cpu")).generate(
            **tokens, max_new_tokens=20, do_sample=False
        )
    assert text
    assert "Hello, my name" + text == bench.tokenizer.decode(output[0], skip_special_tokens=True)
