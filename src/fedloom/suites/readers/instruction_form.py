"""Multiple choice questions that are written as an instruction, as LLM-Adapters (arXiv 2304.01933) publishes them."""

from __future__ import annotations

import re

_OPENING = re.compile(r"Please choose the correct \w+ to (?:the question|fill in the blank[^:]*): ?")
_CLOSING = re.compile(r"\s*Answer format: [\w/]+\Z")


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
    opening, closing = _OPENING.match(text), _CLOSING.search(text)
    if opening is None or closing is None:
        raise ValueError(f"not an instruction of this form: {text[:80]!r}")
    rest = text[opening.end() : closing.start()]
    parts: list[str] = []
    # Each option is looked for behind the one before: a text may hold such words itself.
    while (found := re.search(rf"(?:\A|\s){word}{len(parts) + 1}:", rest)) is not None:
        parts.append(rest[: found.start()].strip())
        rest = rest[found.end() :]
    question, *choices = [*parts, rest.strip()]
    return question, choices


def number_of(answer: str) -> int:
    """The place, from 0, that an answer such as "answer2" names."""
    return int(re.sub(r"\D", "", answer)) - 1
