"""Tasks that ask for programs, with the real files: the authors' solutions pass, wrong ones do not, no code is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedloom.data.conversation import Message
from fedloom.data.readers import read_file
from fedloom.suites.catalogue import all_tasks
from fedloom.suites.items import Item, Limits, Outcome, Reply
from fedloom.suites.kinds.base import Options
from fedloom.suites.kinds.program import ProgramKind, ProgramTask, code_of, drawn, program_of
from fedloom.suites.readers.registry import READERS
from fedloom.suites.results import summarise
from fedloom.suites.sandbox.level import obstacle
from fedloom.suites.sources import Place, items_of
from fedloom.suites.task import render

TASKS = {name: task for name, task in all_tasks().items() if isinstance(task, ProgramTask)}
SIZES = {"humaneval": 164, "humaneval_chat": 164, "mbpp": 500, "mbpp_sanitized": 257}
# All parts of the files, with the problems that are shown and those to train on.
RECORDS = {"humaneval": 164, "mbpp": 974, "mbpp_sanitized": 427}
LEVEL = next((level for level in ("isolated", "weak") if obstacle(level) is None), None)
needs_sandbox = pytest.mark.skipif(LEVEL is None, reason="this machine has no sandbox for programs")


class Scripted:
    """Writes a given text for every prompt, in the place of a model."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def replies(self, prompts: Sequence[str | Sequence[Message]], limits: Limits) -> list[Reply]:
        texts = [prompt if isinstance(prompt, str) else prompt[-1].content for prompt in prompts]
        return [Reply(self.texts[text]) for text in texts]


def written(task: ProgramTask, item: Item, solution: bool) -> str:
    """The authors' solution, or a function that does nothing, as a model would write it."""
    if solution:
        code = render(task.solution, item.fields)
    elif "entry_point" in item.fields:
        code = "    return None\n" if task.form == "completion" else item.fields["prompt"]
    else:
        code = "def something_else(*values):\n    return None\n"
    return f"Sure, here it is:\n```python\n{code}\n```\nIt works." if task.form == "chat" else code


def asked(task: ProgramTask, items: Sequence[Item], texts: Sequence[str]) -> list[Outcome]:
    subject = Scripted(dict(zip((task.prompt_of(item) for item in items), texts, strict=True)))
    return list(ProgramKind(Options(sandbox=LEVEL)).outcomes(task, items, subject))


@needs_sandbox
@pytest.mark.parametrize("name", SIZES)
def test_solutions_pass_and_others_do_not(name: str, shared: Path) -> None:
    task, items = TASKS[name], items_of(TASKS[name], Place(shared / "data"))
    assert len(items) == SIZES[name]
    some = items[:12]
    for solution in (True, False):
        outcomes = asked(task, some, [written(task, item, solution) for item in some])
        assert [outcome.key for outcome in outcomes] == [item.key for item in some]
        result = summarise(task, ProgramKind(Options(sandbox=LEVEL)), outcomes)
        assert (result["score"], result.get("flags", {})) == (float(solution), {})
    nothing = asked(task, some[:3], ["I can't say."] * 3 if task.form == "chat" else ["\n"] * 3)
    result = summarise(task, ProgramKind(Options(sandbox=LEVEL)), nothing)
    assert (result["score"], result["flags"]) == (0.0, {"unparsable": 3})


@pytest.mark.slow
@needs_sandbox
@pytest.mark.parametrize("name", RECORDS)
def test_all_of_the_authors_solutions_pass(name: str, shared: Path) -> None:
    task = TASKS[name]
    items = list(READERS[task.reader]([[one.values for one in read_file(shared / "data" / "eval" / task.files[0])]]))
    assert len(items) == RECORDS[name]
    outcomes = asked(task, items, [written(task, item, True) for item in items])
    assert {outcome.key: outcome.output["reasons"] for outcome in outcomes if not outcome.measures["pass@1"]} == {}


def test_prompts_are_those_of_the_papers(shared: Path) -> None:
    for name in ("humaneval", "mbpp", "mbpp_sanitized"):
        task = TASKS[name]
        item = items_of(task, Place(shared / "data"))[0]
        prompt = task.prompt_of(item)
        if name == "humaneval":
            assert prompt == item.fields["prompt"]
            continue
        shown, _, question = prompt.rpartition("[DONE]\n\n")
        assert shown.count("You are an expert Python programmer, and here is your task: ") == 3
        assert shown.startswith(
            "You are an expert Python programmer, and here is your task: Write a function to find the s"
        )
        assert shown.count("[BEGIN]\ndef similar_elements(") == 1
        assert question == (
            f"You are an expert Python programmer, and here is your task: {item.fields['text']} "
            "Your code should pass these tests:\n\n" + "\n".join(item.fields["tests"]) + "\n[BEGIN]\n"
        )


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Text\n```python\nx = 1\n```\nmore\n```\ny = 2\n```", "x = 1\n"),
        ("```py\nx = 1\n```", "x = 1\n"),
        ("```\nx = '```'\n```", "x = '```'\n"),
        ("1. Do it:\n   ``` Python3\n   if x:\n     y = 1\n   ```", "if x:\n  y = 1\n"),
        ("```bash\npip install x\n```\nThen:\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\n    return 1\n```", "    return 1\n"),
        ("```python\r\nx = 1\r\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\n\n```", None),
        ("x = 1", None),
        ("", None),
    ],
)
def test_the_first_block_of_code_counts(answer: str, code: str | None) -> None:
    assert code_of(answer, "chat") == code


@needs_sandbox
def test_samples_are_counted_into_pass_at_k() -> None:
    item = Item("double", None, {"question": "Double.", "test": "assert double(2) == 4"})
    task = ProgramTask.model_validate(
        {
            **TASKS["mbpp"].model_dump(),
            "prompt": "{{ question }}",
            "program": "{{ code }}\n{{ test }}",
            "samples": 4,
            "temperature": 0.8,
            "measures": ["pass@1", "pass@2", "pass@4"],
        }
    )
    texts = ["def double(x): return 2 * x", "def double(x): return x", "import os; os._exit(0)", ""]
    outcome = ProgramKind(Options(sandbox=LEVEL)).grade(task, item, {"texts": texts, "cut_off": True})
    assert outcome.measures == pytest.approx({"pass@1": 1 / 4, "pass@2": 1 / 2, "pass@4": 1.0})
    assert outcome.flags == ("cut_off", "exited", "unparsable")
    assert outcome.output["reasons"] == [
        "passed",
        "failed: AssertionError (line 2)",
        "exited: exit status 0",
        "unparsable",
    ]


def test_every_item_gets_its_own_samples() -> None:
    changes = {"prompt": "{{ question }}", "samples": 3, "temperature": 0.5}
    task = ProgramTask.model_validate({**TASKS["mbpp"].model_dump(), **changes})
    found = drawn(task, ["one", "two"], Scripted({"one": "1", "two": "2"}))
    assert [[reply.text for reply in replies] for replies in found] == [["1"] * 3, ["2"] * 3]


def test_a_program_is_what_the_file_says(shared: Path) -> None:
    item = next(one for one in items_of(TASKS["mbpp"], Place(shared / "data")) if one.key == "367")
    program = program_of(TASKS["mbpp"], item, "class Node: ...")
    assert program.startswith("class Node: ...\nroot = Node(1)")
    assert program.endswith("\n".join(item.fields["tests"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ["accuracy"]}, "'accuracy' is not pass@K"),
        ({"measures": ["pass@0"]}, "'pass@0' is not pass@K"),
        ({"measures": ["pass@10"]}, "pass@10 needs as many samples at least; samples is 1"),
        ({"samples": 10}, "with temperature 0 all of them would be the same"),
        ({"form": "essay"}, "Input should be 'completion' or 'chat'"),
        ({"shots": 3}, "shots"),
    ],
)
def test_mistakes_in_task_files_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProgramTask.model_validate({**TASKS["humaneval"].model_dump(), **changes})
