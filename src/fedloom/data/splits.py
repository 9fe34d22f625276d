"""Which records are trained on and which test: each client's own split, the global test, unseen clients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from fedloom.data.conversation import as_text, field_text
from fedloom.data.readers import Record
from fedloom.errors import UserError, unknown_name
from fedloom.randomness import numpy_generator
from fedloom.recipe.data_schema import SplitConfig

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "test": "test",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def split_client(records: Sequence[Record], split: SplitConfig, seed: int, client: str) -> list[Split]:
    """Divide one client's records, independently of every other client.

    Args:
        records: the client's records.
        split: the recipe's data.split.
        seed: the recipe's seed.
        client: the client's name.

    Returns:
        The part each record belongs to.

    Raises:
        UserError: where split.key holds something else.
    """
    if split.key is not None:
        return [split_by_key(record, split.key) for record in records]
    return split_by_fractions(len(records), split.validation, split.test, seed, client)


def split_together(records: Sequence[Record], split: SplitConfig, seed: int) -> dict[str, Split]:
    """Divide records of all clients at once, those that are read from one place alike.

    Where several annotators judge the same answers, nobody is then tested on answers that another has trained on.

    Args:
        records: the records.
        split: the recipe's data.split.
        seed: the recipe's seed.

    Returns:
        The part by the records' origin.

    Raises:
        UserError: where split.key holds something else.
    """
    places = {record.origin: record for record in records}
    return dict(zip(places, split_client(list(places.values()), split, seed, ""), strict=True))


def split_by_key(record: Record, key: str) -> Split:
    """Read the part a record says it belongs to.

    Args:
        record: the record.
        key: the field.

    Returns:
        The part.

    Raises:
        UserError: for a value that names none.
    """
    value = field_text(record, key)
    split = _SPLIT_NAMES.get(value.strip().lower())
    if split is None:
        raise unknown_name(f"data.split.key: {record.origin}, {key}", value, _SPLIT_NAMES)
    return split


def split_by_fractions(records: int, validation: float, test: float, seed: int, client: str) -> list[Split]:
    """Draw validation and test records; at least one record stays for training.

    Args:
        records: how many the client has.
        validation: share of validation records, rounded half up.
        test: share of test records, rounded half up.
        seed: the recipe's seed.
        client: the client's name.

    Returns:
        The part each record belongs to.
    """
    validations, tests = round_half_up(validation * records), round_half_up(test * records)
    while records and validations + tests >= records:
        if validations >= tests:
            validations -= 1
        else:
            tests -= 1
    order = numpy_generator(seed, "split", 0, client).permutation(records)
    splits: list[Split] = ["train"] * records
    for place in order[:tests]:
        splits[place] = "test"
    for place in order[tests : tests + validations]:
        splits[place] = "validation"
    return splits


def choose_unseen(clients: Sequence[str], count: int, seed: int) -> list[str]:
    """Choose the clients that are held out of training.

    Args:
        clients: all names, sorted.
        count: how many to hold out.
        seed: the recipe's seed.

    Returns:
        Their names, sorted.

    Raises:
        UserError: when none would be left to train.
    """
    if count >= len(clients):
        raise UserError(f"data.unseen_clients: {count} of {len(clients)} clients leaves none to train")
    chosen = numpy_generator(seed, "unseen_clients").permutation(len(clients))[:count]
    return sorted(clients[place] for place in chosen)


def marked_records(records: Sequence[Record], where: Mapping[str, str | int | float | bool]) -> list[bool]:
    """Find the records a global test is made of.

    Args:
        records: all records.
        where: field -> value; a record needs all of them. Compared as text too, for files without types.

    Returns:
        Whether each record is marked.

    Raises:
        UserError: when none or all are.
    """
    marked = [all(_equals(record, field, value) for field, value in where.items()) for record in records]
    shown = ", ".join(f"{field}: {value}" for field, value in where.items())
    if not any(marked):
        raise UserError(f"data.global_test.where: no record has {shown}")
    if all(marked):
        raise UserError(f"data.global_test.where: every record has {shown}, so none is left for the clients")
    return marked


def drawn_records(records: int, fraction: float, seed: int) -> list[bool]:
    """Draw a global test.

    Args:
        records: how many there are.
        fraction: share of them, rounded half up; a share above 0 gives at least one.
        seed: the recipe's seed.

    Returns:
        Whether each record is drawn.
    """
    count = max(round_half_up(fraction * records), int(fraction > 0))
    drawn = np.zeros(records, dtype=np.bool_)
    drawn[numpy_generator(seed, "global_test").permutation(records)[:count]] = True
    return [bool(one) for one in drawn]


def round_half_up(value: float) -> int:
    """Round to the nearest whole number, halves upwards."""
    # 0.29 * 50 is 14.499999999999998 in binary; the person meant 14.5.
    return math.floor(round(value, 9) + 0.5)


def _equals(record: Record, field: str, value: str | int | float | bool) -> bool:
    held = record.values.get(field)
    if held is None or isinstance(held, dict | list):
        return False
    if isinstance(held, bool) or isinstance(value, bool):
        return as_text(held, field).lower() == as_text(value, field).lower()
    return bool(held == value) or as_text(held, field) == as_text(value, field)
