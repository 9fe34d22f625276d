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
from fedloom.data.splits import SPLITS, Split

# Part of every fingerprint: raise it whenever the same inputs would be stored differently.
FORMAT_VERSION = 4
_META, _DROPPED = "meta.json", "dropped.json"
# Arrays of examples that are stored only where there are any.
_OPTIONAL = ("category_codes", "labels", "places", "token_types", "difficulties")


@dataclass(frozen=True)
class ExampleArrays:
    """Examples laid end to end, in memory or mapped from disk.

    Args:
        tokens: [total] unsigned integers, token ids.
        trained: [total] uint8, 1 where the model learns to predict the token.
        offsets: [examples + 1] int64, where each example starts.
        label_counts: [examples] int32, trained tokens of each, not counting one at position 0.
        category_codes: [examples] int32, index into categories; None without a category.
        categories: the category names; None without a category.
        labels: [examples] int32, the class of each; None for other tasks than classification.
        places: [examples] int32, where among an example's tokens its class is read; None where the model decides.
        token_types: [total] uint8, 0 in the first text of a pair and 1 in the second; None for tokenizers without.
        difficulties: [examples] fp64, as the records of training examples say, else 0; None where nobody asks.
    """

    tokens: NDArray[Any]
    trained: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    label_counts: NDArray[np.int32]
    category_codes: NDArray[np.int32] | None = None
    categories: list[str] | None = None
    labels: NDArray[np.int32] | None = None
    places: NDArray[np.int32] | None = None
    token_types: NDArray[np.uint8] | None = None
    difficulties: NDArray[np.float64] | None = None


class ExampleSet:
    """Some examples, in an order: a view that copies no tokens.

    Args:
        arrays: where the examples are.
        indices: [len] int64, which of them, in order.
    """

    def __init__(self, arrays: ExampleArrays, indices: NDArray[np.int64]) -> None:
        self._arrays = arrays
        self._indices = indices

    @classmethod
    def from_examples(
        cls,
        tokens: Sequence[Sequence[int]],
        trained: Sequence[Sequence[bool]],
        categories: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        places: Sequence[int] | None = None,
        token_types: Sequence[Sequence[int]] | None = None,
    ) -> ExampleSet:
        """Hold examples in memory.

        Args:
            tokens: token ids of each example.
            trained: for each example, which tokens the model learns to predict.
            categories: the category of each example.
            labels: the class of each example; an example of a class counts as one label.
            places: where among the tokens of each example its class is read.
            token_types: 0 or 1 for each token of each example.

        Returns:
            The set of all of them.
        """
        lengths = np.array([len(example) for example in tokens], dtype=np.int64)
        names, codes = encode_values(categories) if categories is not None else (None, None)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        mask = np.array([one for example in trained for one in example], dtype=np.uint8)
        arrays = ExampleArrays(
            tokens=np.array([token for example in tokens for token in example], dtype=np.int64),
            trained=mask,
            offsets=offsets,
            label_counts=count_labels(mask, offsets) if labels is None else np.ones(len(labels), dtype=np.int32),
            category_codes=codes,
            categories=names,
            labels=None if labels is None else np.array(labels, dtype=np.int32),
            places=None if places is None else np.array(places, dtype=np.int32),
            token_types=None if token_types is None else np.concatenate(token_types).astype(np.uint8),
        )
        return cls(arrays, np.arange(len(lengths), dtype=np.int64))

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[len] int64, tokens of each example."""
        starts = self._arrays.offsets[self._indices]
        return np.asarray(self._arrays.offsets[self._indices + 1] - starts, dtype=np.int64)

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """[len] int64, trained tokens of each example, without one at position 0, which nothing predicts.

        Of classification 1: an example's class.
        """
        return np.asarray(self._arrays.label_counts[self._indices], dtype=np.int64)

    @property
    def categories(self) -> list[str] | None:
        """The category of each example, or None where the recipe names none."""
        codes, names = self._arrays.category_codes, self._arrays.categories
        if codes is None or names is None:
            return None
        return [names[code] for code in codes[self._indices]]

    def tokens(self, place: int) -> NDArray[np.int64]:
        """Read one example's token ids: [length] int64."""
        return np.asarray(self._arrays.tokens[self._range(place)], dtype=np.int64)

    def trained(self, place: int) -> NDArray[np.bool_]:
        """Read which tokens of one example the model learns to predict: [length] bool."""
        return np.asarray(self._arrays.trained[self._range(place)], dtype=np.bool_)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """[len] int64, the class of each example; None for other tasks than classification."""
        labels = self._arrays.labels
        return None if labels is None else np.asarray(labels[self._indices], dtype=np.int64)

    @property
    def difficulties(self) -> NDArray[np.float64] | None:
        """[len] fp64, how hard each training example's record says it is; None where nobody asks."""
        stored = self._arrays.difficulties
        return None if stored is None else np.asarray(stored[self._indices], dtype=np.float64)

    def label(self, place: int) -> int | None:
        """One example's class; None for other tasks than classification."""
        labels = self._arrays.labels
        return None if labels is None else int(labels[self._indices[place]])

    def place(self, place: int) -> int | None:
        """Where among one example's tokens its class is read; None where the model decides."""
        places = self._arrays.places
        return None if places is None else int(places[self._indices[place]])

    def token_types(self, place: int) -> NDArray[np.uint8] | None:
        """Read to which text of a pair each token of one example belongs: [length] uint8, 0 or 1; None without."""
        types = self._arrays.token_types
        return None if types is None else np.asarray(types[self._range(place)], dtype=np.uint8)

    def key(self, place: int) -> int | None:
        """One example's row in the shards: no other example of the run has it. None for contents of its own."""
        return int(self._indices[place])

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> ExampleSet:
        """Choose some of these examples.

        Args:
            indices: places in this set; order and repetition are kept.

        Returns:
            A view of them.
        """
        return ExampleSet(self._arrays, self._indices[np.asarray(indices, dtype=np.int64)])

    @staticmethod
    def concatenate(sets: Sequence[ExampleSet]) -> ExampleSet:
        """Join views of the same stored data, e.g. all clients' for the centralized baseline.

        Args:
            sets: at least one, in order.

        Returns:
            A view of all their examples.

        Raises:
            ValueError: for no sets, or sets of different stored data.
        """
        if not sets:
            raise ValueError("nothing to concatenate")
        arrays = sets[0]._arrays
        if any(other._arrays is not arrays for other in sets):
            raise ValueError("only views of the same stored data can be concatenated")
        return ExampleSet(arrays, np.concatenate([one._indices for one in sets]))

    def _range(self, place: int) -> slice:
        index = int(self._indices[place])
        return slice(int(self._arrays.offsets[index]), int(self._arrays.offsets[index + 1]))


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
    for name in _OPTIONAL:
        array = getattr(examples, name)
        if array is not None:
            arrays[name] = array
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
        "stored": [name for name in _OPTIONAL if name in arrays],
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


def reorder(arrays: ExampleArrays, order: NDArray[np.int64]) -> ExampleArrays:
    """Lay examples end to end in another order.

    Args:
        arrays: the examples.
        order: [examples] int64, which example comes first, second, ...

    Returns:
        New arrays.
    """

    def gathered(flat: NDArray[Any]) -> NDArray[Any]:
        pieces = [flat[arrays.offsets[one] : arrays.offsets[one + 1]] for one in order]
        return np.concatenate(pieces) if pieces else flat[:0]

    def permuted(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[order]

    return ExampleArrays(
        tokens=gathered(arrays.tokens),
        trained=gathered(arrays.trained),
        offsets=np.concatenate([[0], np.cumsum(np.diff(arrays.offsets)[order])]).astype(np.int64),
        label_counts=arrays.label_counts[order],
        category_codes=permuted(arrays.category_codes),
        categories=arrays.categories,
        labels=permuted(arrays.labels),
        places=permuted(arrays.places),
        token_types=None if arrays.token_types is None else gathered(arrays.token_types),
        difficulties=permuted(arrays.difficulties),
    )


def count_labels(trained: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """Count the trained tokens of each example, without one at its position 0.

    Args:
        trained: [total] bool or uint8.
        offsets: [examples + 1] int64; no example is empty.

    Returns:
        [examples] int32.
    """
    if len(offsets) == 1:
        return np.zeros(0, dtype=np.int32)
    counts = np.add.reduceat(trained.astype(np.int64), offsets[:-1]) - trained[offsets[:-1]]
    return np.asarray(counts, dtype=np.int32)


def encode_values(values: Sequence[str]) -> tuple[list[str], NDArray[np.int32]]:
    """Encode text values as the sorted list of different ones, and for each value its place there."""
    names = sorted(set(values))
    codes = {name: code for code, name in enumerate(names)}
    return names, np.array([codes[value] for value in values], dtype=np.int32)
