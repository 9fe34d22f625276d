"""Tokenised examples on disk: flat arrays mapped into memory, so that opening costs nothing per client."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.data.mapped import map_array, map_values
from fedloom.data.names import Names
from fedloom.data.shards import OPTIONAL_ARRAYS, ExampleArrays
from fedloom.data.splits import SPLITS, Split

# Part of every fingerprint: raise it whenever the same inputs would be stored differently.
FORMAT_VERSION = 4
_META, _DROPPED = "meta.json", "dropped.json"


@dataclass(frozen=True)
class ShardContents:
    """What is stored: examples sorted by client (training, then unseen, then global test) and split.

    Args:
        examples: the examples, in that order.
        clients: training clients, sorted.
        unseen: clients held out of training, sorted.
        bounds: [clients + unseen, 4] int64: where a client's train, validation and test examples start, and
            where they end.
        global_bounds: [3] int64: where the global validation and test examples start, and where they end.
        key_codes: [examples] int32, index into key_values, -1 for none: the field a partition skews.
        key_values: the values of that field.
        meta: further facts, as JSON; nothing in it grows with the number of clients.
        dropped: client -> reason -> records left out; not read when shards are opened, see `read_dropped`.
    """

    examples: ExampleArrays
    clients: Sequence[str]
    unseen: Sequence[str]
    bounds: NDArray[np.int64]
    global_bounds: NDArray[np.int64]
    key_codes: NDArray[np.int32]
    key_values: list[str]
    meta: Mapping[str, Any]
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def range_of(self, row: int, split: Split) -> NDArray[np.int64]:
        """Find the examples of one client and split.

        Args:
            row: place among clients, then unseen.
            split: the part.

        Returns:
            [examples] int64, indices into the arrays.
        """
        part = SPLITS.index(split)
        return np.arange(self.bounds[row, part], self.bounds[row, part + 1], dtype=np.int64)


def write_shards(directory: Path, contents: ShardContents, vocabulary: int) -> None:
    """Store contents in a directory that appears whole or not at all.

    Args:
        directory: does not exist yet; if another process finishes it first, its copy stays.
        contents: what to store.
        vocabulary: number of token ids, which decides between 16 and 32 bits a token.
    """
    building = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    examples = contents.examples
    width = np.uint16 if vocabulary <= 2**16 else np.uint32
    examples.tokens.astype(width).tofile(building / "tokens.bin")
    examples.trained.astype(np.uint8).tofile(building / "trained.bin")
    arrays: dict[str, NDArray[Any]] = {"offsets": examples.offsets, "label_counts": examples.label_counts}
    arrays |= {"bounds": contents.bounds, "global_bounds": contents.global_bounds}
    arrays |= {"key_codes": contents.key_codes}
    for name in OPTIONAL_ARRAYS:
        array = getattr(examples, name)
        if array is not None:
            arrays[name] = array.astype(width) if name == "rejected_tokens" else array
    for name, array in arrays.items():
        np.save(building / f"{name}.npy", array)
    text = [name.encode() for name in [*contents.clients, *contents.unseen]]
    np.save(building / "name_offsets.npy", np.cumsum([0, *map(len, text)], dtype=np.int64))
    (building / "names.bin").write_bytes(b"".join(text))
    meta = {
        **contents.meta,
        "token_type": np.dtype(width).name,
        "unseen": len(contents.unseen),
        "categories": examples.categories,
        "stored": [name for name in OPTIONAL_ARRAYS if name in arrays],
        "key_values": contents.key_values,
    }
    for name, values in ((_DROPPED, contents.dropped), (_META, meta)):
        (building / name).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    try:
        building.rename(directory)
    except OSError:
        shutil.rmtree(building)
        if not is_stored(directory):
            raise


def is_stored(directory: Path) -> bool:
    """Tell whether a directory holds shards."""
    return (directory / _META).is_file()


def open_shards(directory: Path) -> ShardContents:
    """Open stored shards without reading them.

    Args:
        directory: as written by `write_shards`.

    Returns:
        The contents, arrays mapped read-only.
    """
    meta = json.loads((directory / _META).read_text(encoding="utf-8"))

    def mapped(name: str) -> Any:
        return map_array(directory / f"{name}.npy")

    offsets = mapped("name_offsets")
    text = map_values(directory / "names.bin", np.uint8)
    training = len(offsets) - 1 - meta["unseen"]
    return ShardContents(
        examples=ExampleArrays(
            tokens=map_values(directory / "tokens.bin", np.dtype(meta["token_type"])),
            trained=map_values(directory / "trained.bin", np.uint8),
            offsets=mapped("offsets"),
            label_counts=mapped("label_counts"),
            categories=meta["categories"],
            **{name: mapped(name) for name in meta["stored"]},
        ),
        clients=Names(text, offsets[: training + 1]),
        unseen=Names(text, offsets[training:]),
        bounds=mapped("bounds"),
        global_bounds=mapped("global_bounds"),
        key_codes=mapped("key_codes"),
        key_values=meta["key_values"],
        meta=meta,
    )


def read_dropped(directory: Path) -> dict[str, dict[str, int]]:
    """Read what was left out of each client.

    Args:
        directory: as written by `write_shards`.

    Returns:
        Client -> reason -> records.
    """
    dropped: dict[str, dict[str, int]] = json.loads((directory / _DROPPED).read_text(encoding="utf-8"))
    return dropped
