"""Who owns which record: pure functions from records to one client name each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from fedloom.data.client_sizes import PURPOSE, client_names, require_enough, with_minimum
from fedloom.data.conversation import field_text
from fedloom.data.label_prior import label_prior
from fedloom.data.readers import Record, stem_of
from fedloom.data.splits import split_by_key
from fedloom.errors import UserError
from fedloom.randomness import numpy_generator
from fedloom.recipe.data_schema import (
    Partition,
    PartitionByKey,
    PartitionDirichlet,
    PartitionFiles,
    PartitionIid,
    PartitionLabelPrior,
    PartitionQuantity,
)


def partition_records(
    records: Sequence[Record], partition: Partition, seed: int, split_key: str | None = None
) -> list[str]:
    """Give every record to a client, as a recipe says.

    Args:
        records: the records to share out.
        partition: the recipe's data.partition.
        seed: the recipe's seed.
        split_key: the recipe's data.split.key, if it has one: a label_prior partition deals each part by itself.

    Returns:
        The client's name for each record.

    Raises:
        UserError: where there are too few records or a record has no value for the key.
    """
    match partition:
        case PartitionByKey():
            return by_key(records, partition.key)
        case PartitionFiles():
            return by_source(records)
        case PartitionIid():
            return iid(len(records), partition.clients, seed)
        case PartitionDirichlet():
            values = [key_text(record, partition.key) for record in records]
            return dirichlet(values, partition.clients, partition.alpha, partition.min_examples, seed)
        case PartitionLabelPrior(clients=clients, alpha=alpha, size_alpha=size_alpha, min_examples=least):
            values = [key_text(record, partition.key) for record in records]
            parts = ["" if split_key is None else split_by_key(record, split_key) for record in records]
            return label_prior(values, parts, clients, alpha, size_alpha, least, seed)
        case PartitionQuantity():
            return quantity(len(records), partition.clients, partition.alpha, partition.min_examples, seed)
        case _:
            assert_never(partition)


def by_key(records: Sequence[Record], key: str) -> list[str]:
    """Make one client per value of a field.

    Args:
        records: the records.
        key: the field.

    Returns:
        The value as text for each record.

    Raises:
        UserError: where a record has no value.
    """
    return [key_text(record, key) for record in records]


def by_source(records: Sequence[Record]) -> list[str]:
    """Make one client per source: under the name that the recipe gives it, else one per file.

    Args:
        records: the records.

    Returns:
        The client of each record.
    """
    named = [record.source.name if record.source is not None else None for record in records]
    files = [record.file for record, name in zip(records, named, strict=True) if name is None]
    by_files = iter(by_file(files, {name for name in named if name is not None}))
    return [next(by_files) if name is None else name for name in named]


def by_file(files: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Make one client per file.

    Args:
        files: the file each record is from.
        taken: names that belong to other clients.

    Returns:
        For each record the file's name without suffix; where two files share it, the folder's name comes
        before it, and where that is not enough, a number after it.
    """
    paths = sorted(set(files))
    stems = Counter(stem_of(path) for path in paths)
    names: dict[str, str] = {}
    used = set(taken)
    for path in paths:
        stem = stem_of(path)
        name = stem if stems[stem] == 1 else f"{Path(path).parent.name}-{stem}".lstrip("-")
        unique, number = name, 2
        while unique in used:
            unique, number = f"{name}-{number}", number + 1
        used.add(unique)
        names[path] = unique
    return [names[file] for file in files]


def iid(records: int, clients: int, seed: int) -> list[str]:
    """Deal records uniformly at random, in shares that differ by at most one.

    Args:
        records: how many there are.
        clients: how many share them.
        seed: the recipe's seed.

    Returns:
        The client of each record.

    Raises:
        UserError: when there are more clients than records.
    """
    require_enough(records, clients, 1)
    owners = np.empty(records, dtype=np.int64)
    owners[numpy_generator(seed, PURPOSE).permutation(records)] = np.arange(records) % clients
    return _names(owners, clients)


def dirichlet(values: Sequence[str], clients: int, alpha: float, min_examples: int, seed: int) -> list[str]:
    """Share the records of each value out by proportions drawn from Dirichlet(alpha): label skew.

    Args:
        values: the skewed field's value of each record.
        clients: how many share them.
        alpha: concentration; small: each client sees few values, large: all see alike.
        min_examples: smallest client allowed. Proportions are redrawn until it holds, at most 50 times; then
            records move from the largest clients to those below.
        seed: the recipe's seed.

    Returns:
        The client of each record.

    Raises:
        UserError: when clients * min_examples exceeds the records.
    """
    require_enough(len(values), clients, min_examples)
    names, value_of = np.unique(np.array(values, dtype=object), return_inverse=True)
    places = [np.flatnonzero(value_of == value) for value in range(len(names))]

    def draw(attempt: int) -> NDArray[np.int64]:
        owners = np.empty(len(values), dtype=np.int64)
        for name, members in zip(names, places, strict=True):
            # Keyed by the value, so that a value's shares do not depend on which other values exist.
            generator = numpy_generator(seed, PURPOSE, attempt, str(name))
            counts = _counts(generator, len(members), clients, alpha)
            owners[generator.permutation(members)] = np.repeat(np.arange(clients), counts)
        return owners

    return _names(with_minimum(draw, clients, min_examples), clients)


def quantity(records: int, clients: int, alpha: float, min_examples: int, seed: int) -> list[str]:
    """Draw client sizes from Dirichlet(alpha), with contents alike: quantity skew.

    Args:
        records: how many there are.
        clients: how many share them.
        alpha: concentration; small: few clients hold most records.
        min_examples: smallest client allowed (see `dirichlet`).
        seed: the recipe's seed.

    Returns:
        The client of each record.

    Raises:
        UserError: when clients * min_examples exceeds the records.
    """
    require_enough(records, clients, min_examples)

    def draw(attempt: int) -> NDArray[np.int64]:
        generator = numpy_generator(seed, PURPOSE, attempt)
        owners = np.empty(records, dtype=np.int64)
        counts = _counts(generator, records, clients, alpha)
        owners[generator.permutation(records)] = np.repeat(np.arange(clients), counts)
        return owners

    return _names(with_minimum(draw, clients, min_examples), clients)


def key_text(record: Record, key: str) -> str:
    """Read the value a record is partitioned by.

    Args:
        record: the record.
        key: the field.

    Returns:
        The value as text.

    Raises:
        UserError: where there is none.
    """
    text = field_text(record, key)
    if not text.strip():
        raise UserError(f"data.partition.key: {record.origin} has no value in the field {key!r}")
    return text


def _counts(generator: np.random.Generator, records: int, clients: int, alpha: float) -> NDArray[np.int64]:
    shares = generator.dirichlet(np.full(clients, alpha))
    # Rounding the running total keeps the sum exact and each count within one of its share.
    edges = np.floor(np.cumsum(shares) * records + 0.5).astype(np.int64).clip(0, records)
    edges[-1] = records
    return np.diff(edges, prepend=0)


def _names(owners: NDArray[np.int64], clients: int) -> list[str]:
    names = client_names(clients)
    return [names[owner] for owner in owners]
