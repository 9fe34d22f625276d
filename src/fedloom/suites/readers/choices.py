"""Readers of multiple choice tasks: items have the fields question, choices and gold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item

Records = Sequence[Mapping[str, Any]]

# LLM-Adapters (arXiv 2304.01933) has these tasks as instructions; question and options are taken out again.
_OPENING = re.compile(r"Please choose the correct \w+ to (?:the question|fill in the blank[^:]*): ?")
_CLOSING = re.compile(r"\s*Answer format: .*\Z", re.DOTALL)


def arc(files: Sequence[Records]) -> Iterator[Item]:
    """ARC (arXiv 1803.05457), and other tasks of its form.

    Args:
        files: one, of instructions or as the hub has it.

    Yields:
        The items of the test split.
    """
    for place, record in enumerate(files[0]):
        if "instruction" in record:
            if record["split"] == "test":
                question, choices = parse_instruction(record["instruction"], "Answer")
                yield _item(f"{record['id']}", None, question, choices, _number(record["answer"]))
        else:
            labels = record["choices"]["label"]
            gold = labels.index(record["answerKey"].strip())
            yield _item(str(record.get("id", place)), None, record["question"], record["choices"]["text"], gold)


def parse_instruction(text: str, word: str) -> tuple[str, list[str]]:
    """Take an instruction apart into its question and options.

    Args:
        text: "Please choose the correct answer to the question: Q Answer1: A Answer2: B Answer format: ...".
        word: what options are called: Answer, Solution or Option.

    Returns:
        The question and the options, without white space around them.

    Raises:
        ValueError: where it is not of this form.
    """
    opening = _OPENING.match(text)
    if opening is None:
        raise ValueError(f"not an instruction of this form: {text[:80]!r}")
    body = _CLOSING.sub("", text[opening.end() :])
    # Each option is looked for behind the one before: its text may hold such words itself.
    parts, number = [], 1
    while (found := re.search(rf"(?:\A|\s){word}{number}:", body)) is not None:
        parts.append(body[: found.start()].strip())
        body, number = body[found.end() :], number + 1
    parts.append(body.strip())
    question, *choices = parts
    if len(choices) < 2:
        raise ValueError(f"no options in {text[:80]!r}")
    return question, choices


def _number(answer: str) -> int:
    """The place that an answer such as "answer2" names."""
    return int(re.sub(r"\D", "", answer)) - 1


def _item(
    key: str, category: str | None, question: str, choices: Sequence[str], gold: int | list[int], **more: Any
) -> Item:
    places = [gold] if isinstance(gold, int) else gold
    if not all(0 <= place < len(choices) for place in places):
        raise ValueError(f"example {key}: the right answer is none of its choices")
    return Item(key, category, {"question": question, "choices": list(choices), "gold": places, **more})
