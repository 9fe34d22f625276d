"""From a record's fields to the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fedloom.data.dialogue import continued, spoken, turns_of
from fedloom.data.readers import Record
from fedloom.errors import MAX_SHOWN, UserError, nearest, unknown_name
from fedloom.recipe.fields_schema import FieldsConfig

Role = Literal["system", "user", "assistant"]

EMPTY_PROMPT = "empty prompt"
EMPTY_RESPONSE = "empty response"

# The names ShareGPT files use for the roles.
_ROLES: dict[str, Role] = {
    "human": "user",
    "gpt": "assistant",
    **{role: role for role in get_args(Role)},
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: who speaks.
        content: what is said.
        context: further input to a user's prompt, kept apart for templates with a place of its own for it.
    """

    role: Role
    content: str
    context: str = ""

    @property
    def text(self) -> str:
        """Content and context as one text."""
        return "\n".join(part for part in (self.content, self.context) if part)


class UnusableRecord(Exception):
    """A record nothing can be learnt from; its text is the reason it is counted under."""


def as_text(value: object, where: str) -> str:
    """Turn a field's value into text; nothing there is the empty text, never "None" or "nan".

    Args:
        value: the value as read.
        where: origin and field, for the error message.

    Returns:
        The text.

    Raises:
        UserError: for a nested value.
    """
    if isinstance(value, str):
        return value
    if value is None or value != value:  # only not-a-number differs from itself
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple | bytes):
        raise UserError(f"{where} holds a nested value ({type(value).__name__}) where text is expected")
    return str(value)


def field_text(record: Record, field: str) -> str:
    """Read one field of a record as text, empty where the record lacks it (see `as_text`)."""
    return as_text(record.values.get(field), f"{record.origin}: the field {field!r}")


def check_fields(records: Sequence[Record], required: Mapping[str, str], optional: Mapping[str, str]) -> None:
    """Check that the fields a recipe names are there, before anything slow happens.

    Args:
        records: all records.
        required: recipe key -> field that every record must have.
        optional: recipe key -> field that some record must have, or it is a typing mistake.

    Raises:
        UserError: naming the key, the field, where it is missing and what is there.
    """
    for key, field in required.items():
        for record in records:
            if field not in record.values:
                raise _missing_field(key, field, record, f"{record.origin} has no field")
    for key, field in optional.items():
        if records and not any(field in record.values for record in records):
            raise _missing_field(key, field, records[0], "no record has the field")


def field_keys(fields: FieldsConfig, key: str = "data.fields") -> tuple[dict[str, str], dict[str, str]]:
    """List the required and the optional fields of the mapping under a recipe key (see `check_fields`)."""
    names = (
        "prompt",
        "response",
        "messages",
        "text",
        "pair",
        "label",
        "chosen",
        "rejected",
        "response_a",
        "response_b",
    )
    required = {name: getattr(fields, name) for name in (*names, "desirable")}
    if isinstance(fields.preferred, str):
        required["preferred"] = fields.preferred
    required |= {f"preferred.{place}": field for place, field in enumerate(fields.annotators)}
    optional = {"context": fields.context, "system": fields.system}
    return (
        {f"{key}.{name}": field for name, field in required.items() if field is not None},
        {f"{key}.{name}": field for name, field in optional.items() if field is not None},
    )


def conversation_of(record: Record, fields: FieldsConfig, instruction: str | None = None) -> list[Message]:
    """Turn a record into a conversation that ends with an answer.

    Turns before the first of the user (other than system) and after the last answer teach nothing and are
    left out. A system field is used where the conversation has no system message of its own.

    Args:
        record: the record.
        fields: which field holds what.
        instruction: the user's words where every record is asked the same of; its prompt is then their context.

    Returns:
        The messages, the last one of the assistant.

    Raises:
        UnusableRecord: where a prompt or an answer is empty.
        UserError: where a value has the wrong form.
    """
    if fields.dialogue is not None:
        messages = _trimmed(_dialogue(record, fields))
    elif fields.messages is not None:
        messages = _trimmed(_turns(record, fields.messages))
    else:
        assert fields.prompt is not None
        assert fields.response is not None
        prompt = field_text(record, fields.prompt)
        context = field_text(record, fields.context) if fields.context is not None else ""
        if instruction is not None:
            if not prompt.strip():
                raise UnusableRecord(EMPTY_PROMPT)
            prompt, context = instruction, prompt
        messages = [
            Message("user", prompt, context if context.strip() else ""),
            Message("assistant", field_text(record, fields.response)),
        ]
    if not any(message.role == "assistant" for message in messages):
        raise UnusableRecord(EMPTY_RESPONSE)
    for message in messages:
        if message.role != "system" and not message.text.strip():
            raise UnusableRecord(EMPTY_RESPONSE if message.role == "assistant" else EMPTY_PROMPT)
    if fields.system is not None and messages[0].role != "system":
        system = field_text(record, fields.system)
        if system.strip():
            messages.insert(0, Message("system", system))
    return messages


def _dialogue(record: Record, fields: FieldsConfig) -> list[Message]:
    if fields.messages is not None:
        field, text = fields.messages, field_text(record, fields.messages)
    else:
        assert fields.prompt is not None
        assert fields.response is not None
        field = fields.prompt
        text = continued(field_text(record, field), field_text(record, fields.response))
    turns = turns_of(text, f"{record.origin}: the field {field!r}")
    return [Message(role, words) for role, words in spoken(turns)]


def _turns(record: Record, field: str) -> list[Message]:
    where = f"{record.origin}: the field {field!r}"
    turns = record.values[field]
    if turns is None:
        return []
    if not isinstance(turns, list):
        raise UserError(
            f"{where} is not a list of messages but {type(turns).__name__}",
            hint="texts as in HH-RLHF are read with fields.dialogue: hh" if isinstance(turns, str) else None,
        )
    messages = []
    for number, turn in enumerate(turns, start=1):
        place = f"{where}, message {number}"
        if not isinstance(turn, dict):
            raise UserError(f"{place} is not an object with role and content")
        role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
        for key in (role_key, text_key):
            if key not in turn:
                raise UserError(f"{place} has no {key!r}; keys there: {_shown(turn)}")
        role = _ROLES.get(turn[role_key]) if isinstance(turn[role_key], str) else None
        if role is None:
            raise unknown_name(f"{place}, {role_key}", turn[role_key], _ROLES)
        text = as_text(turn[text_key], place)
        if role != "system" or text.strip():
            messages.append(Message(role, text))
    return messages


def _trimmed(messages: list[Message]) -> list[Message]:
    roles = [message.role for message in messages]
    first = roles.index("user") if "user" in roles else len(roles)
    last = max((place for place, role in enumerate(roles) if role == "assistant"), default=-1)
    return [m for place, m in enumerate(messages[: last + 1]) if place >= first or m.role == "system"]


def _missing_field(key: str, field: str, record: Record, finding: str) -> UserError:
    close = nearest(field, record.values)
    return UserError(
        f"{key}: {finding} {field!r}; fields there: {_shown(record.values)}",
        hint=f"did you mean {close!r}?" if close else None,
    )


def _shown(values: Mapping[str, Any]) -> str:
    names = list(values)
    return ", ".join(map(str, names[:MAX_SHOWN])) + (", ..." if len(names) > MAX_SHOWN else "") or "none"
