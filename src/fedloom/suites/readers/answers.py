"""Readers of tasks that are answered with text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.extraction.mathematics import last_boxed
from fedloom.suites.extraction.numbers import strict_number
from fedloom.suites.items import Item

Records = Sequence[Mapping[str, Any]]

# The canary of BIG-Bench's files stands above this line.
_BBH_RULE = "-----\n"


def bbh(files: Sequence[Records]) -> Iterator[Item]:
    """BIG-Bench Hard (arXiv 2210.09261).

    Args:
        files: the examples, and the chain-of-thought prompts of its tasks.

    Yields:
        Items with input, gold and examples: the instruction and three solved examples of its task.
    """
    solved = {record["task"]: record["prompt"].partition(_BBH_RULE)[2].strip() for record in files[1]}
    for record in files[0]:
        task = record["task"]
        fields = {"examples": solved[task], "input": record["input"], "gold": record["target"]}
        yield Item(f"{task}/{record['id']}", task, fields)


def gsm8k(files: Sequence[Records]) -> Iterator[Item]:
    """GSM8K (arXiv 2110.14168).

    Args:
        files: test questions and, where examples are shown, training questions.

    Yields:
        Items with question, number (the right one) and examples (of training, with question and answer).
    """
    examples = [{"question": one["question"], "answer": one["answer"]} for one in (files[1][:8] if files[1:] else [])]
    for place, record in enumerate(files[0]):
        number = strict_number(record["answer"])
        if number is None:
            raise ValueError(f"example {place}: its answer has no number after ####")
        fields = {"question": record["question"], "number": number, "examples": examples}
        yield Item(str(record.get("id", place)), None, fields)


def svamp(files: Sequence[Records]) -> Iterator[Item]:
    """SVAMP (arXiv 2103.07191), as its authors give it out.

    Args:
        files: one; each record has Body, Question and Answer.

    Yields:
        Items with question and number.
    """
    for place, record in enumerate(files[0]):
        body, answer = record["Body"].strip(), float(record["Answer"])
        question = f"{body}{'' if body.endswith(('.', '?', ',')) else '.'} {record['Question'].strip()}"
        yield Item(str(record.get("ID", place)), record.get("Type"), {"question": question, "number": f"{answer:.12g}"})


def mathematics(files: Sequence[Records]) -> Iterator[Item]:
    """MATH (arXiv 2103.03874).

    Args:
        files: one; each record has problem, solution, level and type.

    Yields:
        Items with problem and gold, by subject.
    """
    for place, record in enumerate(files[0]):
        gold = last_boxed(record["solution"])
        if gold is None:
            raise ValueError(f"example {place}: its solution has no boxed answer")
        fields = {"problem": record["problem"], "gold": gold, "level": record["level"]}
        yield Item(str(record.get("id", place)), record["type"], fields)


def aqua(files: Sequence[Records]) -> Iterator[Item]:
    """AQuA-RAT (arXiv 1705.04146).

    Args:
        files: one; each record has question, options ("A)21") and correct.

    Yields:
        Items of the test split with question, options, letters and gold.
    """
    for place, record in enumerate(files[0]):
        if record.get("split", "test") == "test":
            letters = "".join(option[0] for option in record["options"])
            fields = {
                "question": record["question"],
                "options": [option[2:].strip() for option in record["options"]],
                "letters": letters,
                "gold": record["correct"],
            }
            if record["correct"] not in letters:
                raise ValueError(f"example {place}: the right answer is none of its options")
            yield Item(str(place), None, fields)


def drop(files: Sequence[Records]) -> Iterator[Item]:
    """DROP (arXiv 1903.00161), or its contrast set.

    Args:
        files: one; each record has passage, question, number, spans and date.

    Yields:
        Items with passage, question and golds, a list of right answers, each a list of spans.
    """
    for record in files[0]:
        spans = [record["number"]] if record["number"] else record["spans"]
        date = " ".join(record["date"][part] for part in ("day", "month", "year") if record["date"][part])
        fields = {"passage": record["passage"], "question": record["question"], "golds": [spans or [date]]}
        yield Item(record["query_id"], None, fields)


def ifeval(files: Sequence[Records]) -> Iterator[Item]:
    """IFEval (arXiv 2311.07911).

    Args:
        files: one; each record has key, prompt, instruction_id_list and kwargs.

    Yields:
        Items with prompt and instructions.
    """
    for record in files[0]:
        pairs = zip(record["instruction_id_list"], record["kwargs"], strict=True)
        # On the hub every instruction has all names of arguments, empty but for its own.
        instructions = [
            {"name": name, "arguments": {key: value for key, value in arguments.items() if value is not None}}
            for name, arguments in pairs
        ]
        yield Item(str(record["key"]), None, {"prompt": record["prompt"], "instructions": instructions})


def superni(files: Sequence[Records]) -> Iterator[Item]:
    """Super-NaturalInstructions (arXiv 2204.07705).

    Args:
        files: one; each record has task, definition, input and output (a text or a list of them).

    Yields:
        Items with definition, input and references, by task.
    """
    for record in files[0]:
        output = record["output"]
        references = output if isinstance(output, list) else [output]
        fields = {"definition": record["definition"], "input": record["input"], "references": references}
        yield Item(record["id"], record["task"], fields)
