"""Prompt templates: from the messages of a conversation to the text a model reads and the text it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fedloom.data.control_tokens import ControlTokens, unmark
from fedloom.data.conversation import Message
from fedloom.errors import UserError, nearest, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_NAMES = ("alpaca", "chat", "plain")
# An answer that no template writes of its own.
_PROBE = "\ue000"
_JINJA_SUFFIXES = (".jinja", ".jinja2", ".j2")

# Stanford Alpaca's train.py, word for word.
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
_ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)


class Segment(NamedTuple):
    """A stretch of text, and whether the model learns to write it.

    Where a record spells out a control token, the text holds it marked (see `ControlTokens.mark`).
    """

    text: str
    trained: bool


class Template(ABC):
    """Turns conversations into text; answers, with the token that ends them, are what is trained.

    Args:
        tokenizer: its control tokens are the template's to write, never a record's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._control = ControlTokens(tokenizer)

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """Phrase a conversation as stretches of text.

        Args:
            messages: a conversation that ends with an answer.

        Returns:
            Segments in order, none empty, untrained ones never adjacent.

        Raises:
            UserError: where the template cannot phrase this conversation.
        """
        return _joined(self._turns([self._marked(message) for message in messages]))

    def prompt_segments(self, messages: Sequence[Message]) -> list[Segment]:
        """Phrase a conversation up to where the model is to answer, in the stretches training reads.

        Args:
            messages: a conversation; answers at its end are left out.

        Returns:
            Segments as `segments` gives them, without the last answer.

        Raises:
            UserError: where the template cannot phrase this conversation.
        """
        end = len(messages)
        while end and messages[end - 1].role == "assistant":
            end -= 1
        # An answer must follow, for the template to open it; what it says cannot change what precedes it.
        turns = self.segments([*messages[:end], Message("assistant", "x")])
        last = max(place for place, turn in enumerate(turns) if turn.trained)
        return turns[:last]

    def prompt(self, messages: Sequence[Message]) -> str:
        """Phrase what an answer is generated from (see `prompt_segments`), as it reads: without marks."""
        return unmark("".join(segment.text for segment in self.prompt_segments(messages)))

    def _marked(self, message: Message) -> Message:
        mark = self._control.mark
        return replace(message, content=mark(message.content), context=mark(message.context))

    @abstractmethod
    def _turns(self, messages: Sequence[Message]) -> list[Segment]:
        """Phrase the stretches, still possibly empty or adjacent."""


class _WordedTemplate(Template):
    """A template whose wording is ours; the tokenizer's end-of-text token ends each answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self._end_token = str(tokenizer.eos_token)

    def _turns(self, messages: Sequence[Message]) -> list[Segment]:
        segments = []
        asked: list[Message] = []
        answered = False
        for message in messages:
            if message.role != "assistant":
                asked.append(message)
                continue
            segments.append(Segment(self._question(asked, answered), False))
            segments.append(Segment(message.content + self._end_token, True))
            asked, answered = [], True
        return segments

    @abstractmethod
    def _question(self, asked: Sequence[Message], answered: bool) -> str:
        """Phrase the text between two answers.

        Args:
            asked: the messages since the last answer, none of the assistant.
            answered: whether an answer came before.

        Returns:
            The text up to where the next answer starts.
        """


class AlpacaTemplate(_WordedTemplate):
    """The wording of Stanford Alpaca; later turns repeat its instruction block."""

    def _question(self, asked: Sequence[Message], answered: bool) -> str:
        text = "\n\n" if answered else ""
        introduced = answered
        for message in asked:
            if message.role == "system":
                text += f"{message.content}\n\n"
                continue
            if not introduced:
                text += _ALPACA_WITH_INPUT if message.context else _ALPACA_WITHOUT_INPUT
                introduced = True
            text += f"### Instruction:\n{message.content}\n\n"
            if message.context:
                text += f"### Input:\n{message.context}\n\n"
        return text + "### Response:"


class PlainTemplate(_WordedTemplate):
    """Prompt, context and answer on lines of their own, without any other word."""

    def _question(self, asked: Sequence[Message], answered: bool) -> str:
        return ("\n" if answered else "") + "".join(f"{message.text}\n" for message in asked)


class _RenderedTemplate(Template):
    """A template under the contract of chat templates: messages, add_generation_prompt -> text."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self._name = name

    def _turns(self, messages: Sequence[Message]) -> list[Segment]:
        # A chat template is a black box. What a turn adds is the difference of two renderings, which is
        # only defined where the shorter one begins the longer one.
        segments = []
        written = ""
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opened = self._render(messages[:place], True)
            closed = self._render(messages[: place + 1], False)
            self._require_prefix(written, opened, place)
            self._require_prefix(opened, closed, place + 1)
            header = self._header(messages[:place], opened, closed, message.content)
            segments.append(Segment(opened[len(written) :] + header, False))
            segments.extend(_answer_segments(closed[len(opened) + len(header) :], message.content))
            written = closed
        return segments

    def _header(self, before: Sequence[Message], opened: str, closed: str, answer: str) -> str:
        """What a template that ignores add_generation_prompt writes before an answer: no model has to write it."""
        body = closed[len(opened) :]
        if body.lstrip().startswith(answer.strip()) or opened != self._render(before, False):
            return ""
        # Not looked for by the answer's own words, which may be those of the header.
        probe = self._render([*before, Message("assistant", _PROBE)], False)[len(opened) :]
        header = probe.partition(_PROBE)[0]
        return header if header.strip() and body.startswith(header) else ""

    @abstractmethod
    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Render a conversation, optionally with what opens the next answer."""

    def _require_prefix(self, shorter: str, longer: str, turns: int) -> None:
        if not longer.startswith(shorter):
            raise UserError(
                f"data.template: {self._name} rewrites earlier text when the conversation reaches "
                f"{turns} messages, so what an answer adds cannot be told",
                hint="use a template whose text only grows, such as alpaca or plain",
            )


class ChatTemplate(_RenderedTemplate):
    """The chat template a tokenizer brings along."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__("the tokenizer's chat template", tokenizer)
        self._tokenizer = tokenizer

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    _as_dicts(messages), tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except jinja2.TemplateError as error:
            raise UserError(f"data.template: {self._name} refuses this conversation: {error}") from None


class _GenerationBlock(Extension):
    """Accepts {% generation %}, which chat templates put around answers; the mask does not need it."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - the type jinja2 declares

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        """Keep the block's contents."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class JinjaTemplate(_RenderedTemplate):
    """A chat template from a file of one's own, rendered in a sandbox.

    Args:
        path: the file.
        tokenizer: gives bos_token and eos_token.
    """

    def __init__(self, path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(f"the template {path}", tokenizer)
        # The settings chat templates are written for (see transformers' apply_chat_template).
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"data.template: {path} is not a UTF-8 text file") from None
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"data.template: {path}:{error.lineno}: {error.message}") from None
        self._tokens = {
            "bos_token": tokenizer.bos_token or "",
            "eos_token": tokenizer.eos_token or "",
        }

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self._template.render(
                messages=_as_dicts(messages), add_generation_prompt=add_generation_prompt, **self._tokens
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(f"data.template: {self._name} refuses this conversation: {error}") from None


def check_template_name(name: str) -> None:
    """Check that a recipe's template exists, without a tokenizer.

    Args:
        name: alpaca, chat, plain, or the path of a Jinja file.

    Raises:
        UserError: for an unknown name or a missing file.
    """
    path = Path(name).expanduser()
    if name in TEMPLATE_NAMES or path.is_file():
        return
    if path.suffix in _JINJA_SUFFIXES or len(path.parts) > 1:
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = nearest(path.name, names)
        raise UserError(
            f"data.template: no such file: {path}",
            hint=f"did you mean {path.parent / close}?" if close else None,
        )
    raise unknown_name("data.template", name, [*TEMPLATE_NAMES, "the path of a Jinja file"])


def load_template(name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Load the template a recipe names.

    Args:
        name: alpaca, chat, plain, or the path of a Jinja file.
        tokenizer: gives the special tokens and, for chat, the template.

    Returns:
        The template.

    Raises:
        UserError: for an unknown name, or where the tokenizer lacks what the template needs.
    """
    check_template_name(name)
    if name == "chat":
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "data.template: chat needs a tokenizer with a chat template, and this one has none",
                hint="use alpaca, plain, or the path of a Jinja file",
            )
        return ChatTemplate(tokenizer)
    if name not in TEMPLATE_NAMES:
        return JinjaTemplate(Path(name).expanduser(), tokenizer)
    if not isinstance(tokenizer.eos_token, str) or not tokenizer.eos_token:
        raise UserError(
            f"data.template: {name} ends answers with the tokenizer's eos token, and this tokenizer has none",
            hint="use chat, or the path of a Jinja file",
        )
    return {"alpaca": AlpacaTemplate, "plain": PlainTemplate}[name](tokenizer)


def _answer_segments(body: str, answer: str) -> list[Segment]:
    # White space after an end-of-turn token only separates turns: no model has to write it.
    kept = body.rstrip()
    if kept.endswith(answer.rstrip()):
        kept = body  # nothing but white space ends this answer, so that is what ends it
    return [Segment(kept, True), Segment(body[len(kept) :], False)]


def _joined(turns: Sequence[Segment]) -> list[Segment]:
    # Neighbouring untrained stretches become one text, tokenised as the generation prompt will be.
    joined: list[Segment] = []
    for turn in turns:
        if turn.text and joined and not turn.trained and not joined[-1].trained:
            joined[-1] = Segment(joined[-1].text + turn.text, False)
        elif turn.text:
            joined.append(turn)
    return joined


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
