"""How hard the records themselves say they are, for a curriculum that goes by a field."""

from __future__ import annotations

import math

from fedloom.data.conversation import as_text
from fedloom.data.readers import Record
from fedloom.errors import UserError
from fedloom.recipe.schema import Recipe

KEY = "local.curriculum.difficulty.column"


def difficulty_column(recipe: Recipe) -> str | None:
    """The field of the records that a recipe's curriculum goes by; None where it goes by none."""
    return None if recipe.local.curriculum is None else recipe.local.curriculum.column


def difficulty_of(record: Record, field: str) -> float:
    """Read how hard a training record is.

    Args:
        record: the record, which has the field.
        field: the recipe's.

    Returns:
        A finite number; higher is harder.

    Raises:
        UserError: where there is no such number, with the record's origin.
    """
    value = record.values.get(field)
    where = f"{record.origin}, {field}"
    text = "" if isinstance(value, bool) else as_text(value, where)
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        shown = "nothing" if value is None or (text == "" and not isinstance(value, bool)) else repr(value)
        raise UserError(f"{KEY}: {where} holds {shown}, where a finite number is needed")
    return found
