"""From a record's fields to a text, or a pair of texts, and the label it belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedloom.data.conversation import UnusableRecord, as_text, field_text
from fedloom.data.readers import Record
from fedloom.errors import UserError, unknown_name
from fedloom.recipe.fields_schema import FieldsConfig

EMPTY_TEXT = "empty text"
EMPTY_PAIR = "empty second text"
NO_LABEL = "no label"


@dataclass(frozen=True, slots=True)
class LabelledText:
    """What a classification learns from one record.

    Args:
        text: the text, or the first of a pair.
        pair: the second text of a pair; None where there are no pairs.
        label: the name of its class.
        where: origin and field of the label, for error messages.
    """

    text: str
    pair: str | None
    label: str
    where: str


def labelled_text_of(record: Record, fields: FieldsConfig) -> LabelledText:
    """Read the texts and the label of a record.

    Args:
        record: the record.
        fields: which field holds what; names text and label.

    Returns:
        The texts as they stand, the label without white space around it.

    Raises:
        UnusableRecord: where a text or the label is empty.
        UserError: where a value is nested.
    """
    assert fields.text is not None
    assert fields.label is not None
    text = field_text(record, fields.text)
    pair = field_text(record, fields.pair) if fields.pair is not None else None
    where = f"{record.origin}, {fields.label}"
    label = _label_text(record.values.get(fields.label), where)
    for value, reason in ((text, EMPTY_TEXT), (pair, EMPTY_PAIR), (label, NO_LABEL)):
        if value is not None and not value.strip():
            raise UnusableRecord(reason)
    return LabelledText(text, pair, label, where)


def class_names(examples: Iterable[LabelledText], wanted: Sequence[str] | None) -> list[str]:
    """Order the classes.

    Args:
        examples: all that are used, of every client and of the global test.
        wanted: the recipe's task.labels, None where it names none.

    Returns:
        The labels wanted; else all that there are, sorted, as numbers where all are numbers.

    Raises:
        UserError: for a label that is not wanted, or where there are fewer than two.
    """
    if wanted is not None:
        for example in examples:
            if example.label not in wanted:
                raise unknown_name(f"task.labels: {example.where}", example.label, wanted)
        return list(wanted)
    found = {example.label for example in examples}
    if len(found) < 2:
        raise UserError(
            f"data.fields.label: every record has the label {next(iter(found), '')!r}: there is nothing to tell apart",
            hint="task.labels names classes that no record has",
        )
    try:
        numbers = {label: float(label) for label in found}
    except ValueError:
        return sorted(found)
    # "nan" is no place in an order, and hashes would decide where it stands.
    if not all(map(math.isfinite, numbers.values())):
        return sorted(found)
    return sorted(found, key=lambda label: (numbers[label], label))


def _label_text(value: object, where: str) -> str:
    # Tables hold whole numbers as 1.0 where some row has none.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return as_text(value, where).strip()
