from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedloom.data.conversation import Message
from fedloom.data.templates import Segment, Template, load_template
from fedloom.errors import UserError

ASK, ANSWER = Message("user", "Why?", "A story."), Message("assistant", "So.")
SINGLE = [ASK, ANSWER]
LONG = [Message("system", "Brief!"), Message("user", "One?"), ANSWER, Message("user", "Two?"), ANSWER]


def both(template: Template, messages: list[Message]) -> tuple[str, list[str]]:
    segments = template.segments(messages)
    return "".join(s.text for s in segments), [s.text for s in segments if s.trained]


def test_alpaca_with_input(tokenizer: Any) -> None:
    assert load_template("alpaca", tokenizer).segments(SINGLE) == [
        Segment(
            "Below is an instruction that describes a task, paired with an input that provides further "
            "context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nWhy?\n\n### Input:\nA story.\n\n### Response:",
            False,
        ),
        Segment("So.</s>", True),
    ]


def test_alpaca_without_input_and_over_turns(tokenizer: Any) -> None:
    text, trained = both(load_template("alpaca", tokenizer), LONG)
    assert text == (
        "Brief!\n\nBelow is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nOne?\n\n### Response:So.</s>\n\n"
        "### Instruction:\nTwo?\n\n### Response:So.</s>"
    )
    assert trained == ["So.</s>", "So.</s>"]


def test_plain(tokenizer: Any) -> None:
    template = load_template("plain", tokenizer)
    assert both(template, SINGLE) == ("Why?\nA story.\nSo.</s>", ["So.</s>"])
    assert both(template, LONG)[0] == "Brief!\nOne?\nSo.</s>\nTwo?\nSo.</s>"


def test_chat_trains_answers_with_their_end_of_turn_token(tokenizer: Any) -> None:
    template = load_template("chat", tokenizer)
    assert template.segments(LONG) == [
        Segment("<|start|>system\nBrief!<|end|>\n<|start|>user\nOne?<|end|>\n<|start|>assistant\n", False),
        Segment("So.<|end|>", True),
        Segment("\n<|start|>user\nTwo?<|end|>\n<|start|>assistant\n", False),
        Segment("So.<|end|>", True),
        Segment("\n", False),
    ]


@pytest.mark.parametrize("name", ["alpaca", "plain", "chat"])
@pytest.mark.parametrize("messages", [SINGLE, LONG])
def test_prompt_is_where_the_last_answer_starts(tokenizer: Any, name: str, messages: list[Message]) -> None:
    template = load_template(name, tokenizer)
    text, trained = both(template, messages)
    prompt = template.prompt(messages[:-1])
    assert text.startswith(prompt + trained[-1])
    assert template.prompt(messages) == prompt
    assert "".join(s.text for s in template.prompt_segments(messages)) == prompt


def test_chat_equals_the_tokenizers_own_rendering(tokenizer: Any) -> None:
    as_dicts = [{"role": m.role, "content": m.text} for m in LONG]
    whole = tokenizer.apply_chat_template(as_dicts, tokenize=False)
    assert both(load_template("chat", tokenizer), LONG)[0] == whole


@pytest.mark.parametrize("answer", ["{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"])
def test_jinja_file_equals_the_same_chat_template(tokenizer: Any, tmp_path: Path, answer: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(tokenizer.chat_template.replace("{{ m.content }}", answer))
    assert load_template(str(path), tokenizer).segments(LONG) == load_template("chat", tokenizer).segments(LONG)


def test_answers_without_end_of_turn_token_end_with_their_white_space(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert load_template(str(path), tokenizer).segments(SINGLE) == [
        Segment("user: Why?\nA story.\nassistant: ", False),
        Segment("So.\n", True),
    ]


@pytest.mark.parametrize("answer", ["So.", "assistant", "a"])
def test_a_template_without_generation_prompt_opens_answers_itself(tokenizer: Any, tmp_path: Path, answer: str) -> None:
    path = tmp_path / "closed.jinja"
    path.write_text("{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}")
    messages = [Message("user", "Why?"), Message("assistant", answer)]
    template = load_template(str(path), tokenizer)
    assert template.segments(messages) == load_template("chat", tokenizer).segments(messages)
    assert template.prompt(messages) == "<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"


def test_white_space_before_an_answer_is_the_answers(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "bracket.jinja"
    path.write_text(
        "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]"
        "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    messages = [Message("user", "Why?"), ANSWER]
    assert load_template(str(path), tokenizer).segments(messages) == [
        Segment("[Why?]", False),
        Segment(" So.</s>", True),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ messages | length }}", "rewrites earlier text"),
        ("{% if %}", r"broken.jinja:1: "),
        ("{{ raise_exception('no system role') }}", "refuses this conversation: no system role"),
        ("{{ ''.__class__.__mro__ }}", "refuses this conversation: access to attribute '__class__'"),
        ("{{ messages.clear() }}", "refuses this conversation"),
        ("{{ nothing.more }}", "refuses this conversation: 'nothing' is undefined"),
    ],
)
def test_broken_templates(tokenizer: Any, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.jinja"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_template(str(path), tokenizer).segments(SINGLE)


class Bare:
    chat_template = None
    eos_token = None
    bos_token = None


def test_what_a_tokenizer_lacks() -> None:
    with pytest.raises(UserError, match=r"chat template.*alpaca, plain, or the path of a Jinja file"):
        load_template("chat", Bare())
    for name in ("alpaca", "plain"):
        with pytest.raises(UserError, match=f"{name} ends answers with the tokenizer's eos token"):
            load_template(name, Bare())


def test_unknown_names(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.template: 'alpacca' is not one of: .*did you mean 'alpaca'"):
        load_template("alpacca", tokenizer)
    (tmp_path / "mine.jinja").write_text("")
    with pytest.raises(UserError, match=r"no such file: .*did you mean .*mine.jinja"):
        load_template(str(tmp_path / "mime.jinja"), tokenizer)
