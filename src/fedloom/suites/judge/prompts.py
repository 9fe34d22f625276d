"""The judge's prompts, read from a visible file: ours, or one in FastChat's form that a user gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedloom.data.readers import read_file
from fedloom.errors import UserError, unknown_name
from fedloom.recipe.yaml_text import parse_yaml
from fedloom.suites.judge.verdicts import READERS

OURS = Path(__file__).with_name("prompts.yaml")
OPTION = "--judge-prompts"
_FIELDS = ("name", "type", "system_prompt", "prompt_template")
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_KNOWN = {"question", "question_1", "question_2", "answer", "answer_1", "answer_2", "ref_answer_1", "ref_answer_2"} | {
    f"answer_{side}{turn}" for side in "ab" for turn in ("", "_1", "_2")
}


class Role(NamedTuple):
    """What a prompt is for.

    Args:
        kind: single, pairwise, refusal or harm.
        reference: whether the judge sees a reference answer.
        turns: 1, or 2 where the second answer of a conversation is judged.
    """

    kind: str
    reference: bool = False
    turns: int = 1


@dataclass(frozen=True)
class JudgePrompt:
    """A prompt with places to fill.

    Args:
        name: for people.
        role: what it is for, which follows from its type and its places.
        system: the system message, empty where there is none.
        template: the user message; {question} and the like are filled, {{ and }} stand for braces.
    """

    name: str
    role: Role
    system: str
    template: str

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """Fill the places.

        Args:
            values: a text for every place. It is put in as it is: places spelt out in it stay as they are.

        Returns:
            The messages of a request.
        """
        text = _PLACEHOLDER.sub(lambda found: values[found[1]] if found[1] else found[0][0], self.template)
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        return [*system, {"role": "user", "content": text}]


Prompts = dict[Role, JudgePrompt]


def load_prompts(file: str | None = None) -> Prompts:
    """Read the judge's prompts.

    Args:
        file: of a user, YAML in the form of ours or JSON lines in FastChat's; None: ours alone.

    Returns:
        A prompt for every role: the file's, and ours where it has none.

    Raises:
        UserError: for a file that can't be read or is of another form.
    """
    ours = _by_role(parse_yaml(OURS.read_text(encoding="utf-8"), OURS.name), OURS.name)
    if file is None:
        return ours
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{OPTION}: no such file: {file}")
    if path.suffix in {".yaml", ".yml"}:
        try:
            entries = parse_yaml(path.read_text(encoding="utf-8"), f"{OPTION}: {path}")
        except UnicodeDecodeError:
            raise UserError(f"{OPTION}: {path} is not a UTF-8 text file") from None
    elif path.suffix in {".jsonl", ".json"}:
        entries = [record.values for record in read_file(path)]
    else:
        raise UserError(f"{OPTION}: {path} is neither .yaml nor .jsonl")
    return {**ours, **_by_role(entries, f"{OPTION}: {path.name}")}


def _by_role(entries: Any, where: str) -> Prompts:
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where}: expected a list of prompts")
    found: Prompts = {}
    for number, entry in enumerate(entries, start=1):
        prompt = _prompt(entry, f"{where}, prompt {number}")
        if prompt.role in found:
            raise UserError(
                f"{where}: {found[prompt.role].name!r} and {prompt.name!r} are for the same: {_shown(prompt.role)}"
            )
        found[prompt.role] = prompt
    return found


def _prompt(entry: Any, where: str) -> JudgePrompt:
    for field in _FIELDS:
        if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
            raise UserError(f"{where}: expected the keys {', '.join(_FIELDS)}, each a text")
    if entry["type"] not in READERS:
        raise unknown_name(f"{where}, type", entry["type"], READERS)
    places = {found[1] for found in _PLACEHOLDER.finditer(entry["prompt_template"]) if found[1]}
    role = Role(entry["type"], "ref_answer_1" in places, 2 if "question_2" in places else 1)
    if role.kind in {"refusal", "harm"} and role != Role(role.kind):
        raise UserError(f"{where}: a prompt of type {role.kind} sees one question and one answer only")
    allowed = places_of(role)
    for place in sorted(places - allowed):
        if place not in _KNOWN:
            raise unknown_name(f"{where}, place", place, sorted(allowed))
        raise UserError(f"{where}: {{{place}}} does not go with {_shown(role)}")
    answers = {place for place in allowed if place.startswith("answer_")} or {"answer"}
    for place in sorted(answers - places):
        raise UserError(f"{where}: lacks the place {{{place}}}, and the judge would not see it")
    return JudgePrompt(entry["name"], role, entry["system_prompt"].rstrip(), entry["prompt_template"])


def places_of(role: Role) -> set[str]:
    """The places that a role's prompt may have.

    Args:
        role: what the prompt is for.

    Returns:
        Names without braces.
    """
    numbers = ("",) if role.turns == 1 else ("_1", "_2")
    sides = ("_a", "_b") if role.kind == "pairwise" else ("",)
    places = {f"question{number}" for number in numbers}
    places |= {f"answer{side}{number}" for side in sides for number in numbers}
    return places | ({f"ref_answer_{turn + 1}" for turn in range(role.turns)} if role.reference else set())


def values_of(
    role: Role, questions: Sequence[str], answers: Sequence[Sequence[str]], references: Sequence[str] | None
) -> dict[str, str]:
    """The texts for a role's places.

    Args:
        role: what the prompt is for.
        questions: of the conversation's turns up to the judged one.
        answers: one conversation's answers, or those of A and of B.
        references: of the same turns; None where the role has none.

    Returns:
        A text for every place of `places_of`.
    """
    numbers = ("",) if role.turns == 1 else ("_1", "_2")
    sides = ("_a", "_b") if role.kind == "pairwise" else ("",)
    values = {f"question{number}": text for number, text in zip(numbers, questions, strict=True)}
    for side, texts in zip(sides, answers, strict=True):
        values.update({f"answer{side}{number}": text for number, text in zip(numbers, texts, strict=True)})
    for turn, text in enumerate(references or (), start=1):
        values[f"ref_answer_{turn}"] = text
    return values


def _shown(role: Role) -> str:
    turn = " of the second turn" if role.turns == 2 else ""
    return f"type {role.kind}{turn}, {'with' if role.reference else 'without'} a reference"
