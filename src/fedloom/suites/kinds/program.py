"""Programs: the model writes code, which is run together with tests in a sandbox; pass@k says how often one passes."""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedloom.data.conversation import Message
from fedloom.suites.items import Item, Limits, Outcome, Reply
from fedloom.suites.kinds.base import Options
from fedloom.suites.pass_at_k import pass_at_k
from fedloom.suites.sandbox.level import check_level
from fedloom.suites.sandbox.programs import Bounds, Verdict, run_programs
from fedloom.suites.task import Task, render

if TYPE_CHECKING:
    from fedloom.suites.subject import Subject

# Outcomes are kept after so many items.
ITEMS_AT_ONCE = 16
_MEASURE = re.compile(r"pass@([1-9]\d*)")
# A fenced block of an answer: its indentation, its language, its lines. An answer that was cut off does not close it.
_BLOCK = re.compile(r"^([ \t]*)```[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
LANGUAGES = {"", "python", "python3", "py"}
# Reasons that are told by the measure itself.
PLAIN = {"passed", "failed"}


def tried(measure: str) -> int:
    """The k of pass@k.

    Args:
        measure: "pass@1" and the like.

    Returns:
        The number.

    Raises:
        ValueError: for any other name.
    """
    found = _MEASURE.fullmatch(measure)
    if found is None:
        raise ValueError(f"measures: {measure!r} is not pass@K, such as pass@1")
    return int(found[1])


class ProgramTask(Task):
    """A task whose items are asked for code."""

    kind: Literal["program"] = Field(description="How the model is asked.")
    form: Literal["completion", "chat"] = Field(
        description="completion: the model goes on from the prompt, and all of it is code. chat: it answers in the "
        "run's prompt template, the first block of code in its answer counts."
    )
    program: str = Field(
        description="A Jinja template over the item's fields and code: what is run. It passes if it runs to its end."
    )
    solution: str = Field(
        "{{ solution }}",
        description="A Jinja template: the code that the authors give; no model is asked for it.",
    )
    stop: list[str] = Field([], description="What the model writes ends before the first of these.")
    max_new_tokens: int = Field(512, ge=1, description="The longest text, in tokens.")
    samples: int = Field(1, ge=1, description="Programs that are drawn for each item.")
    temperature: float = Field(0.0, ge=0, description="Of drawing them; 0: the likeliest token each time.")
    cpu_seconds: int = Field(5, ge=1, description="Seconds of a processor that a program may take.")

    @model_validator(mode="after")
    def _drawn(self) -> ProgramTask:
        for measure in self.measures:
            if tried(measure) > self.samples:
                raise ValueError(f"measures: {measure} needs as many samples at least; samples is {self.samples}")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: with temperature 0 all of them would be the same")
        return self


class ProgramKind:
    """Runs what a model wrote, as Codex was evaluated (arXiv 2107.03374, section 2)."""

    task: ClassVar[type[Task]] = ProgramTask

    def __init__(self, options: Options) -> None:
        self.level = check_level(options.sandbox or "isolated", "--sandbox")

    def settings(self, task: Task) -> Mapping[str, Any]:
        """See `Kind`: where programs run."""
        return {"sandbox": self.level, "python": ".".join(platform.python_version_tuple()[:2])}

    def prompts(self, task: Task, item: Item) -> list[str]:
        """See `Kind`."""
        return [task.prompt_of(item)]

    def outcomes(self, task: Task, items: Sequence[Item], subject: Subject) -> Iterator[Outcome]:
        """See `Kind`."""
        program = _program(task)
        for first in range(0, len(items), ITEMS_AT_ONCE):
            some = items[first : first + ITEMS_AT_ONCE]
            replies = drawn(program, [program.prompt_of(item) for item in some], subject)
            yield from self._graded(program, some, [_output(samples) for samples in replies])

    def grade(self, task: Task, item: Item, output: Any) -> Outcome:
        """See `Kind`.

        Args:
            task: a `ProgramTask`.
            item: with tests.
            output: texts, what the model wrote, one for each sample; cut_off and truncated (see `Reply`), whether any
                was, where that is known.

        Returns:
            The outcome: pass@k of the samples; as flags, how some ended otherwise than by passing or failing their
            tests, such as "timeout"; "unparsable" where one has no code, and "cut_off" and "truncated".
        """
        return self._graded(_program(task), [item], [output])[0]

    def _graded(self, task: ProgramTask, items: Sequence[Item], outputs: Sequence[dict[str, Any]]) -> list[Outcome]:
        """Run all samples of some items side by side."""
        codes = [[code_of(text, task.form) for text in output["texts"]] for output in outputs]
        programs = [
            program_of(task, item, code)
            for item, written in zip(items, codes, strict=True)
            for code in written
            if code is not None
        ]
        ended = run_programs(programs, self.level, Bounds(cpu_seconds=task.cpu_seconds))
        verdicts = [[Verdict("unparsable") if code is None else next(ended) for code in written] for written in codes]
        return [_outcome(task, *one) for one in zip(items, outputs, verdicts, strict=True)]

    def summary(self, task: Task, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """See `Kind`: pass@k is a mean over items."""
        return {}


def drawn(task: ProgramTask, prompts: Sequence[str], subject: Subject) -> list[list[Reply]]:
    """Have texts written.

    Args:
        task: says how.
        prompts: one for each item.
        subject: the model under test.

    Returns:
        For each prompt its samples.
    """
    limits = Limits(task.max_new_tokens, tuple(task.stop), task.temperature)
    repeated: list[str | list[Message]] = [
        [Message("user", prompt)] if task.form == "chat" else prompt for prompt in prompts for _ in range(task.samples)
    ]
    replies = subject.replies(repeated, limits)
    return [replies[first : first + task.samples] for first in range(0, len(replies), task.samples)]


def code_of(text: str, form: str) -> str | None:
    """The code in what a model wrote.

    Args:
        text: a completion or an answer.
        form: completion or chat.

    Returns:
        All of a completion; of an answer its first fenced block that is Python or names no language; None where there
        is nothing.
    """
    if form == "chat":
        blocks = _BLOCK.findall(text.replace("\r\n", "\n"))
        found = [(indent, lines) for indent, language, lines in blocks if language.strip().lower() in LANGUAGES]
        indent, text = found[0] if found else ("", "")
        # Within a list, say, the whole block is indented.
        text = textwrap.dedent(text) if indent else text
    return text if text.strip() else None


def program_of(task: ProgramTask, item: Item, code: str) -> str:
    """What is run for a sample.

    Args:
        task: says what.
        item: with tests.
        code: what the model wrote.

    Returns:
        Python source.
    """
    return render(task.program, {**item.fields, "code": code})


def _output(samples: Sequence[Reply]) -> dict[str, Any]:
    return {
        "texts": [reply.text for reply in samples],
        "cut_off": any(reply.cut_off for reply in samples),
        "truncated": any(reply.truncated for reply in samples),
    }


def _outcome(task: ProgramTask, item: Item, output: Mapping[str, Any], verdicts: Sequence[Verdict]) -> Outcome:
    passed = sum(verdict.passed for verdict in verdicts)
    measures = {measure: pass_at_k(len(verdicts), passed, tried(measure)) for measure in task.measures}
    flags = [flag for flag in ("cut_off", "truncated") if output.get(flag)]
    flags += sorted({verdict.reason for verdict in verdicts} - PLAIN)
    reasons = [f"{verdict.reason}: {verdict.detail}".removesuffix(": ") for verdict in verdicts]
    return Outcome(item.key, item.category, measures, tuple(flags), {"texts": output["texts"], "reasons": reasons})


def _program(task: Task) -> ProgramTask:
    assert isinstance(task, ProgramTask)
    return task
