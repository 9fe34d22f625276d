"""From a record's fields to a prompt and two answers of which one is preferred, or one that is desirable or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedloom.data.conversation import Message, UnusableRecord, as_text, conversation_of
from fedloom.data.readers import Record
from fedloom.errors import UserError, unknown_name
from fedloom.recipe.data_schema import DataConfig
from fedloom.recipe.fields_schema import FieldsConfig

TIE = "tie"
SAME_ANSWERS = "both answers are the same"
DIFFERENT_PROMPTS = "the two dialogues part before an answer"
NOT_JUDGED = "not said whether it is desirable"
# Field of a record that says whose preference it is, where a source holds several annotators'.
ANNOTATOR = "annotator"

_FIRST, _SECOND, _TIE = ("1", "a"), ("2", "b"), ("0", "tie", "")
_DESIRABLE, _UNDESIRABLE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Preference:
    """What a client's model learns to prefer, from one record.

    Args:
        prompt: a conversation that is to be answered, with a user's message.
        answers: the better answer and the worse one, or a single one; each begins with a message of the assistant, and
            may have further turns.
        desirable: whether a single answer is; None of two.
    """

    prompt: list[Message]
    answers: tuple[list[Message], ...]
    desirable: bool | None = None

    def split(self) -> list[Preference]:
        """Make single answers of two: the better one is desirable, the worse one is not."""
        if self.desirable is not None:
            return [self]
        return [Preference(self.prompt, (answer,), place == 0) for place, answer in enumerate(self.answers)]


def preference_of(record: Record, fields: FieldsConfig, instruction: str | None = None) -> Preference:
    """Read the preference of a record.

    Args:
        record: the record.
        fields: which field holds what; those of a pair, or desirable.
        instruction: see `conversation_of`.

    Returns:
        The prompt, which is all that two conversations begin with alike, message by message, and what follows it.

    Raises:
        UnusableRecord: where a prompt or an answer is empty, both are the same, nobody prefers either, or two
            conversations do not answer the same prompt.
        UserError: where a value has the wrong form.
    """
    if fields.desirable is not None:
        desirable = _told(record, fields.desirable, {True: _DESIRABLE, False: _UNDESIRABLE, None: ("",)})
        if desirable is None:
            raise UnusableRecord(NOT_JUDGED)
        messages = conversation_of(record, _of_one_answer(fields, None), instruction)
        return Preference(messages[:-1], (messages[-1:],), desirable)
    better, worse = _ranked(record, fields)
    chosen = conversation_of(record, _of_one_answer(fields, better), instruction)
    rejected = conversation_of(record, _of_one_answer(fields, worse), instruction)
    if chosen == rejected:
        raise UnusableRecord(SAME_ANSWERS)
    pairs = enumerate(zip(chosen, rejected, strict=False))
    start = next((place for place, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    prompt, answers = chosen[:start], (chosen[start:], rejected[start:])
    asked = any(message.role == "user" for message in prompt)
    if not asked or any(not answer or answer[0].role != "assistant" for answer in answers):
        raise UnusableRecord(DIFFERENT_PROMPTS)
    return Preference(prompt, answers)


def by_annotator(records: Sequence[Record], data: DataConfig) -> list[Record]:
    """Make a record for each annotator of the sources that hold several annotators' preferences.

    Args:
        records: all records.
        data: the recipe's data section.

    Returns:
        The records, with the field `ANNOTATOR` where there are several annotators.

    Raises:
        UserError: where records have a field of that name already.
    """
    found = []
    for record in records:
        annotators = data.fields_of(record.source).annotators
        if annotators and ANNOTATOR in record.values:
            raise UserError(
                f"data.fields.preferred: {record.origin} has a field {ANNOTATOR!r} already, which would say whose "
                "preference a record is"
            )
        named = [replace(record, values={**record.values, ANNOTATOR: annotator}) for annotator in annotators]
        found.extend(named or [record])
    return found


def _ranked(record: Record, fields: FieldsConfig) -> tuple[str, str]:
    """The fields of the better and of the worse answer."""
    if fields.chosen is not None:
        assert fields.rejected is not None
        return fields.chosen, fields.rejected
    assert fields.response_a is not None
    assert fields.response_b is not None
    label = fields.preferred if isinstance(fields.preferred, str) else str(record.values[ANNOTATOR])
    first = _told(record, label, {True: _FIRST, False: _SECOND, None: _TIE})
    if first is None:
        raise UnusableRecord(TIE)
    return (fields.response_a, fields.response_b) if first else (fields.response_b, fields.response_a)


def _told(record: Record, field: str, values: dict[bool | None, tuple[str, ...]]) -> bool | None:
    """What a field of a few values says."""
    value, where = record.values.get(field), f"{record.origin}, {field}"
    # Tables hold whole numbers as 1.0 where some row has none.
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    text = as_text(number, where).strip().lower()
    for meaning, names in values.items():
        if text in names:
            return meaning
    raise unknown_name(where, value, [name for names in values.values() for name in names if name])


def _of_one_answer(fields: FieldsConfig, answer: str | None) -> FieldsConfig:
    """The fields of the conversation that ends with one of the answers."""
    pair = ("chosen", "rejected", "response_a", "response_b", "preferred", "desirable")
    of_answer = {} if answer is None else {"messages" if fields.prompt is None else "response": answer}
    return fields.model_copy(update={**dict.fromkeys(pair), **of_answer})
