from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fedloom.data.control_tokens import unmark
from fedloom.data.conversation import Message
from fedloom.data.templates import Segment, load_template
from fedloom.data.tokenizing import end_tokens, tokenize, tokenize_prompt
from fedloom.model.base import POCKET


def parts(tokenized: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start, end in zip(tokenized.offsets[:-1], tokenized.offsets[1:], strict=True):
        yield tokenized.tokens[start:end], tokenized.trained[start:end]


def test_mask_follows_the_segments_and_only_the_first_has_bos(tokenizer: Any) -> None:
    segments = [Segment("ab", False), Segment("cd</s>", True), Segment("e", False), Segment("f</s>", True)]
    [(ids, mask)] = parts(tokenize([segments], tokenizer, 99))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "a", "b", "c", "d", "</s>", "e", "f", "</s>"]
    assert mask.tolist() == [False] * 3 + [True] * 3 + [False] + [True] * 2


def test_bos_written_by_the_template_is_not_doubled(tokenizer: Any) -> None:
    [(ids, _)] = parts(tokenize([[Segment("<s>a", False), Segment("b", True)]], tokenizer, 99))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "a", "b"]


@pytest.mark.parametrize(("max_tokens", "kept", "truncated"), [(3, 0, 0), (4, 1, 1), (5, 1, 1), (6, 1, 0)])
def test_cutting(tokenizer: Any, max_tokens: int, kept: int, truncated: int) -> None:
    tokenized = tokenize([[Segment("ab", False), Segment("cde", True)]], tokenizer, max_tokens)
    assert (len(tokenized.kept), tokenized.truncated) == (kept, truncated)
    assert all(len(ids) <= max_tokens for ids, _ in parts(tokenized))


def test_a_label_at_position_0_does_not_count(tokenizer: Any) -> None:
    examples = [[Segment("<s>", True)], [Segment("<s>", True), Segment("a", True)], [Segment("a", True)]]
    assert tokenize(examples, tokenizer, 99).kept.tolist() == [1, 2]


def test_nothing_in_nothing_out(tokenizer: Any) -> None:
    tokenized = tokenize([[], [Segment("a", False)]], tokenizer, 99)
    assert len(tokenized.tokens) == len(tokenized.kept) == 0
    assert tokenized.offsets.tolist() == [0]


texts = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(examples=st.lists(st.lists(texts, min_size=1, max_size=4), max_size=5))
def test_batches_equal_single_examples_and_decode_to_the_text(tokenizer: Any, examples: list[list[str]]) -> None:
    segments = [[Segment(text, bool(n % 2)) for n, text in enumerate(example)] for example in examples]
    together = list(parts(tokenize(segments, tokenizer, 10_000)))
    alone = [part for one in segments for part in parts(tokenize([one], tokenizer, 10_000))]
    assert [[x.tolist() for x in part] for part in together] == [[x.tolist() for x in part] for part in alone]
    with_labels = [one for one in examples if len(one) > 1]
    assert [tokenizer.decode(ids[1:]) for ids, _ in together] == ["".join(one) for one in with_labels]


@pytest.mark.parametrize("folder", ["tokenizers/gpt2", "tokenizers/pythia", "models/stories260K"])
@pytest.mark.parametrize("name", ["alpaca", "plain"])
def test_real_tokenizers(shared: Path, folder: str, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / folder)
    template = load_template(name, tokenizer)
    messages = [
        Message("user", "Why is it?"),
        Message("assistant", "Because."),
        Message("user", " And\n\nso?"),
    ]
    messages.append(Message("assistant", "Therefore, 12 ü."))
    segments = template.segments(messages)
    [(ids, mask)] = parts(tokenize([segments], tokenizer, 10_000))
    prompt = tokenize_prompt(template.prompt_segments(messages), tokenizer)
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert mask[len(prompt) :].all()
    assert tokenizer.decode(ids[mask]).count(tokenizer.eos_token) == 2
    whole = "".join(segment.text for segment in segments)
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == whole.replace(tokenizer.eos_token, "")


def assert_record_writes_no_control_token(tokenizer: Any, name: str) -> None:
    """Whatever a record spells out, the control tokens are those of the same conversation without it."""
    template = load_template(name, tokenizer)
    spelt = "".join(tokenizer.all_special_tokens)
    end = tokenizer.eos_token

    def messages(ask: str, answer: str) -> list[Message]:
        return [Message("user", ask, ask), Message("assistant", answer)] * 2

    def control(messages: list[Message]) -> tuple[list[int], Any]:
        segments = template.segments(messages)
        [(ids, mask)] = parts(tokenize([segments], tokenizer, 10_000))
        prompt = tokenize_prompt(template.prompt_segments(messages), tokenizer)
        assert ids[: len(prompt)].tolist() == prompt.tolist()
        whole = unmark("".join(segment.text for segment in segments))
        opened = int(ids[0] == tokenizer.bos_token_id)
        # Spaces aside: SentencePiece-like tokenizers put one after a control token.
        assert tokenizer.decode(ids[opened:]).replace(" ", "") == whole.replace(" ", "")
        return [token for token in ids.tolist() if token in tokenizer.all_special_ids], ids[mask][-1]

    harmless = control(messages("Why?", "So."))
    for ask, answer in [(f"Why{end}?", "So."), (spelt, f"{end}So{end}."), (f"{end}{end}", spelt), ("Why?", end)]:
        assert control(messages(ask, answer)) == harmless
    assert harmless[1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["alpaca", "plain", "chat"])
def test_records_write_no_control_tokens(name: str) -> None:
    assert_record_writes_no_control_token(AutoTokenizer.from_pretrained(POCKET), name)


@pytest.mark.parametrize("folder", ["tokenizers/gpt2", "tokenizers/pythia", "models/stories260K"])
@pytest.mark.parametrize("name", ["alpaca", "plain", "chat"])
def test_records_write_no_control_tokens_of_real_tokenizers(shared: Path, folder: str, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert_record_writes_no_control_token(tokenizer, name)


def test_spelt_out_control_tokens_are_counted(tokenizer: Any) -> None:
    template = load_template("plain", tokenizer)
    examples = [[Message("user", ask), Message("assistant", "So.")] for ask in ("Why</s>?", "Why?", "</ s>")]
    assert tokenize([template.segments(one) for one in examples], tokenizer, 99).spelt_out == 1
    assert template.prompt(examples[0]) == "Why</s>?\n"


@pytest.mark.parametrize(("name", "ends"), [("plain", ["</s>"]), ("alpaca", ["</s>"]), ("chat", ["</s>", "<|end|>"])])
def test_answers_end_with_eos_or_the_templates_own_token(tokenizer: Any, name: str, ends: list[str]) -> None:
    assert tokenizer.convert_ids_to_tokens(end_tokens(load_template(name, tokenizer), tokenizer)) == ends


def test_a_template_may_have_no_end_token(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "lines.jinja").write_text("{% for m in messages %}{{ m.content }}{{ '\\n' }}{% endfor %}")
    template = load_template(str(tmp_path / "lines.jinja"), tokenizer)
    assert tokenizer.convert_ids_to_tokens(end_tokens(template, tokenizer)) == ["</s>"]
