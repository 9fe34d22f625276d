"""The kinds of tasks by the name that task files call them."""

from __future__ import annotations

from fedloom.suites.kinds.answer import AnswerKind
from fedloom.suites.kinds.base import Kind
from fedloom.suites.kinds.choice import ChoiceKind
from fedloom.suites.kinds.dialogue import DialogueKind
from fedloom.suites.kinds.program import ProgramKind

KINDS: dict[str, type[Kind]] = {
    "choice": ChoiceKind,
    "answer": AnswerKind,
    "program": ProgramKind,
    "dialogue": DialogueKind,
}
