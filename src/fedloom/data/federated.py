"""The data of a federation, ready to train on: `prepare` is the one call the loop makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedloom.data.allocation import (
    Allocation,
    allocate,
    check_clients,
    check_numbers,
    count_splits,
    effective_data,
)
from fedloom.data.difficulty_column import difficulty_column
from fedloom.data.fingerprint import data_fingerprint
from fedloom.data.mapped import release_pages
from fedloom.data.names import Names
from fedloom.data.phrasing import Phrased, phrase
from fedloom.data.shard_files import ShardContents, is_stored, open_shards, read_dropped, write_shards
from fedloom.data.shards import (
    OPTIONAL_ARRAYS,
    ExampleArrays,
    ExampleSet,
    count_labels,
    encode_values,
    reorder,
)
from fedloom.data.splits import SPLITS, Split
from fedloom.data.tokenizing import ANSWER_CUT_OFF, Tokenized
from fedloom.errors import UserError, unknown_name
from fedloom.recipe.data_schema import PartitionDirichlet, PartitionLabelPrior
from fedloom.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of a fingerprint, in the name of the folder that holds its data.
FOLDER_LENGTH = 16


class FederatedData:
    """Every client's tokenised examples, mapped from disk.

    Args:
        directory: of the shards.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._contents = open_shards(directory)

    @property
    def clients(self) -> Sequence[str]:
        """The training clients, sorted."""
        return self._contents.clients

    @property
    def unseen(self) -> Sequence[str]:
        """The clients held out of training, sorted; all their examples are test examples."""
        return self._contents.unseen

    def examples(self, client: str, split: Split) -> ExampleSet:
        """Give one client's part.

        Args:
            client: a training or an unseen client.
            split: train, validation or test.

        Returns:
            The examples, in the order of the source; may be empty.

        Raises:
            UserError: for an unknown client.
        """
        return self.examples_at(self._row(client), split)

    def client_at(self, row: int) -> str:
        """Give a client's name.

        Args:
            row: place among the training clients, then the unseen ones.

        Returns:
            The name.
        """
        training = len(self.clients)
        return self.clients[row] if row < training else self.unseen[row - training]

    def examples_at(self, row: int, split: Split) -> ExampleSet:
        """Give one client's part without looking its name up: for passes over everybody.

        Args:
            row: place among the training clients, then the unseen ones.
            split: train, validation or test.

        Returns:
            The examples, in the order of the source; may be empty.
        """
        return ExampleSet(self._contents.examples, self._contents.range_of(row, split))

    def holders(self, split: Split, unseen: bool = False) -> NDArray[np.int64]:
        """Find the clients that hold examples of a split.

        Args:
            split: train, validation or test.
            unseen: of the clients held out of training instead of the training clients.

        Returns:
            [clients] int64, rows as `examples_at` takes them, ascending.
        """
        first, last = (len(self.clients), None) if unseen else (0, len(self.clients))
        held = self.sizes()[first:last, SPLITS.index(split)] > 0
        return first + np.flatnonzero(held).astype(np.int64)

    def global_examples(self, split: Literal["validation", "test"] = "test") -> ExampleSet | None:
        """Give the examples that belong to no client.

        Args:
            split: where the records name no validation or no test part, the same examples serve as both.

        Returns:
            The examples, or None where the recipe sets none aside.
        """
        start, middle, end = (int(bound) for bound in self._contents.global_bounds)
        if start == end:
            return None
        if start < middle < end:
            start, end = (start, middle) if split == "validation" else (middle, end)
        return ExampleSet(self._contents.examples, np.arange(start, end, dtype=np.int64))

    def all_examples(self, split: Split | None = None) -> ExampleSet:
        """Pool the training clients' examples, client by client.

        Args:
            split: one part, or None for all three.

        Returns:
            The examples.
        """
        bounds = np.asarray(self._contents.bounds)[: len(self.clients)]
        if split is None:
            places = np.arange(bounds[0, 0], bounds[-1, -1], dtype=np.int64)
        else:
            part = SPLITS.index(split)
            starts, sizes = bounds[:, part], bounds[:, part + 1] - bounds[:, part]
            # Counted through, and moved at every client by what lies between its part and the one before.
            moves = starts - np.concatenate([[0], np.cumsum(sizes)[:-1]])
            places = np.arange(sizes.sum(), dtype=np.int64) + np.repeat(moves, sizes)
        return ExampleSet(self._contents.examples, places)

    @property
    def dropped(self) -> dict[str, int]:
        """Records left out, by reason."""
        return dict(self._contents.meta["dropped"])

    @property
    def dropped_by_client(self) -> dict[str, dict[str, int]]:
        """Records left out, by client and reason; "" stands for records of no client."""
        return read_dropped(self._directory)

    @property
    def truncated(self) -> int:
        """Examples cut to data.max_tokens."""
        return int(self._contents.meta["truncated"])

    @property
    def spelt_out(self) -> int:
        """Examples whose record spells out a control token, which stays text."""
        return int(self._contents.meta["spelt_out"])

    @property
    def rows(self) -> int:
        """Number of stored examples, of all clients and splits."""
        return len(self._contents.examples.offsets) - 1

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return self._contents.examples.longest

    @property
    def checkable(self) -> bool:
        """Whether an answer is right exactly when its text equals the reference."""
        return bool(self._contents.meta["checkable"])

    @property
    def labels(self) -> list[str]:
        """The names of the classes, in their order; empty for other tasks than classification."""
        return list(self._contents.meta["labels"])

    @property
    def label_words(self) -> list[int]:
        """The token that stands for each class; empty where the classes have no words."""
        return list(self._contents.meta["label_words"])

    @property
    def fingerprint(self) -> str:
        """A hash of everything the examples depend on."""
        return str(self._contents.meta["fingerprint"])

    def totals(self) -> dict[Split, int]:
        """Count the examples of all training clients together, by split."""
        sizes = self.sizes()[: len(self.clients)].sum(axis=0)
        return {split: int(size) for split, size in zip(SPLITS, sizes, strict=True)}

    def sizes(self) -> NDArray[np.int64]:
        """Count each client's examples: [clients + unseen, 3] int64, columns train, validation, test."""
        bounds = np.asarray(self._contents.bounds, dtype=np.int64)
        return bounds[:, 1:] - bounds[:, :-1]

    def key_histogram(self, client: str) -> dict[str, int]:
        """Count each value of the skewed field at a client, most frequent first.

        Args:
            client: a training or an unseen client.

        Returns:
            Value -> examples; empty for partitions that skew no field.
        """
        row = self._row(client)
        start, end = self._contents.bounds[row, 0], self._contents.bounds[row, -1]
        codes = np.asarray(self._contents.key_codes[start:end])
        values = [self._contents.key_values[code] for code in codes[codes >= 0]]
        return dict(Counter(values).most_common())

    def release(self) -> None:
        """Let go of the mapped pages read so far: a run holds what its clients at work need, not what it ever read."""
        examples, bounds = self._contents.examples, self._contents.bounds
        arrays = [examples.tokens, examples.trained, examples.offsets, examples.label_counts, bounds]
        optional = [getattr(examples, name) for name in OPTIONAL_ARRAYS]
        release_pages([*arrays, *(array for array in optional if array is not None)])

    @property
    def key(self) -> str | None:
        """The field the partition skews, None where it skews none."""
        key: str | None = self._contents.meta["key"]
        return key

    @property
    def category(self) -> str | None:
        """The field the global test is broken down by, None where the recipe names none."""
        category: str | None = self._contents.meta["category"]
        return category

    def _row(self, client: str) -> int:
        for first, names in ((0, self.clients), (len(self.clients), self.unseen)):
            assert isinstance(names, Names)
            place = names.find(client)
            if place is not None:
                return first + place
        raise unknown_name("client", client, [*self.clients, *self.unseen])


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, directory: Path) -> FederatedData:
    """Read, partition, split and tokenise a recipe's data, or reopen it where that was done before.

    Args:
        recipe: the recipe.
        tokenizer: of the base model.
        directory: where shards are kept, one folder for each fingerprint; created when missing.

    Returns:
        The data, mapped from disk.

    Raises:
        UserError: for any mistake in the data; those that need no tokenizer come before it is used.
    """
    fingerprint = data_fingerprint(recipe, tokenizer)
    shards = directory / fingerprint[:FOLDER_LENGTH]
    if not is_stored(shards):
        allocation = allocate(recipe)
        contents = _tokenized(recipe, allocation, phrase(recipe, allocation, tokenizer), fingerprint)
        try:
            write_shards(shards, contents, len(tokenizer))
        except OSError as error:  # NumPy's has no strerror where the disk is full
            raise UserError(f"{directory}: can't write the data: {error.strerror or 'the disk is full'}") from None
    data = FederatedData(shards)
    check_numbers(recipe, len(data.clients))
    return data


def reopen(directory: Path, fingerprint: str) -> FederatedData:
    """Open data that was prepared before, without looking at what it was prepared from.

    Args:
        directory: as given to `prepare`.
        fingerprint: of the data.

    Returns:
        The data, mapped from disk.
    """
    return FederatedData(directory / fingerprint[:FOLDER_LENGTH])


def _tokenized(recipe: Recipe, allocation: Allocation, phrased: Phrased, fingerprint: str) -> ShardContents:
    tokenized = phrased.tokenized
    examples = [allocation.examples[place] for place in tokenized.kept]
    dropped = _all_dropped(allocation, tokenized)
    check_clients(allocation.clients, count_splits(examples), dropped)
    if any(example.owner is None for example in allocation.examples) and not any(
        example.owner is None for example in examples
    ):
        raise UserError(f"data.global_test: none of its records can be used: {ANSWER_CUT_OFF}")

    row_of = {client: row for row, client in enumerate([*allocation.clients, *allocation.unseen])}
    owners = np.array([len(row_of) if e.owner is None else row_of[e.owner] for e in examples], dtype=np.int64)
    parts = np.array([SPLITS.index(example.split) for example in examples], dtype=np.int64)
    order = np.lexsort((parts, owners))  # stable: the source's order stays within a part
    edges = np.concatenate([[0], np.cumsum(np.bincount(owners * 3 + parts, minlength=3 * (len(row_of) + 1)))])
    starts = edges[: 3 * len(row_of)].reshape(-1, 3)
    data = effective_data(recipe.data)
    names, codes = encode_values([example.category for example in examples])
    key_values, key_codes = encode_values([example.key for example in examples])
    key = data.partition.key if isinstance(data.partition, PartitionDirichlet | PartitionLabelPrior) else None
    has_category, has_key = data.category is not None, key is not None
    arrays = ExampleArrays(
        tokens=tokenized.tokens,
        trained=tokenized.trained.astype(np.uint8),
        offsets=tokenized.offsets,
        label_counts=_label_counts(tokenized) if phrased.labels is None else np.ones(len(examples), dtype=np.int32),
        category_codes=codes if has_category else None,
        categories=names if has_category else None,
        labels=phrased.labels,
        places=tokenized.places,
        token_types=tokenized.token_types,
        difficulties=None
        if difficulty_column(recipe) is None
        else np.array([example.difficulty for example in examples], dtype=np.float64),
        desirable=phrased.desirable,
        **_rejected(tokenized),
    )
    return ShardContents(
        examples=reorder(arrays, order),
        clients=allocation.clients,
        unseen=allocation.unseen,
        bounds=np.concatenate([starts, edges[3 : 3 * len(row_of) + 1 : 3, None]], axis=1).astype(np.int64),
        global_bounds=edges[-3:].astype(np.int64),
        key_codes=key_codes[order] if has_key else np.full(len(examples), -1, dtype=np.int32),
        key_values=key_values if has_key else [],
        meta={
            "fingerprint": fingerprint,
            "checkable": recipe.data.checkable,
            "labels": allocation.labels,
            "label_words": phrased.words,
            "truncated": tokenized.truncated,
            "spelt_out": tokenized.spelt_out,
            "dropped": dict(sorted(sum(dropped.values(), Counter()).items())),
            "category": data.category,
            "key": key,
        },
        dropped={client: dict(reasons) for client, reasons in sorted(dropped.items()) if reasons},
    )


def _label_counts(tokenized: Tokenized) -> NDArray[np.int32]:
    counts = count_labels(tokenized.trained, tokenized.offsets)
    if tokenized.rejected is None:
        return counts
    # Of a rejected half only what follows the prompt is there, so its first token is a label as any other.
    starts = tokenized.rejected.offsets[:-1]
    return counts + np.add.reduceat(tokenized.rejected.trained.astype(np.int32), starts)


def _rejected(tokenized: Tokenized) -> dict[str, NDArray[Any]]:
    other = tokenized.rejected
    if other is None:
        return {}
    return {
        "rejected_tokens": other.tokens,
        "rejected_trained": other.trained.astype(np.uint8),
        "rejected_offsets": other.offsets,
        "prompt_lengths": other.prompt_lengths,
    }


def _all_dropped(allocation: Allocation, tokenized: Tokenized) -> Mapping[str, Counter[str]]:
    dropped: dict[str, Counter[str]] = {client: Counter(lost) for client, lost in allocation.dropped.items()}
    for place, reason in tokenized.left_out.items():
        dropped.setdefault(allocation.examples[place].owner or "", Counter())[reason] += 1
    return dropped
