"""Tokenised examples laid end to end in flat arrays, and views of some of them that copy nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Arrays of examples that are stored only where there are any.
OPTIONAL_ARRAYS = (
    "category_codes",
    "labels",
    "places",
    "token_types",
    "difficulties",
    "rejected_tokens",
    "rejected_trained",
    "rejected_offsets",
    "prompt_lengths",
    "desirable",
)


@dataclass(frozen=True)
class ExampleArrays:
    """Examples laid end to end, in memory or mapped from disk.

    Args:
        tokens: [total] unsigned integers, token ids.
        trained: [total] uint8, 1 where the model learns to predict the token.
        offsets: [examples + 1] int64, where each example starts.
        label_counts: [examples] int32, trained tokens of each, not counting one at position 0; of a pair both answers'.
        category_codes: [examples] int32, index into categories; None without a category.
        categories: the category names; None without a category.
        labels: [examples] int32, the class of each; None for other tasks than classification.
        places: [examples] int32, where among an example's tokens its class is read; None where the model decides.
        token_types: [total] uint8, 0 in the first text of a pair and 1 in the second; None for tokenizers without.
        difficulties: [examples] fp64, as the records of training examples say, else 0; None where nobody asks.
        rejected_tokens: [rejected] unsigned integers, what follows the prompt in the rejected halves of pairs, end to
            end; the examples themselves are the chosen halves. None where there are no pairs.
        rejected_trained: [rejected] uint8, as trained.
        rejected_offsets: [examples + 1] int64, where what follows the prompt starts.
        prompt_lengths: [examples] int32, tokens that both halves of a pair begin with, none of them trained.
        desirable: [examples] uint8, 1 for answers that are desirable and 0 for those that are not; None elsewhere.
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
    rejected_tokens: NDArray[Any] | None = None
    rejected_trained: NDArray[np.uint8] | None = None
    rejected_offsets: NDArray[np.int64] | None = None
    prompt_lengths: NDArray[np.int32] | None = None
    desirable: NDArray[np.uint8] | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, of pairs in either half."""
        longest = int(np.diff(self.offsets).max())
        if self.rejected_offsets is None or self.prompt_lengths is None:
            return longest
        return max(longest, int((self.prompt_lengths + np.diff(self.rejected_offsets)).max()))


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
        rejected: Sequence[tuple[Sequence[int], Sequence[bool]]] | None = None,
        desirable: Sequence[bool] | None = None,
    ) -> ExampleSet:
        """Hold examples in memory.

        Args:
            tokens: token ids of each example.
            trained: for each example, which tokens the model learns to predict.
            categories: the category of each example.
            labels: the class of each example; an example of a class counts as one label.
            places: where among the tokens of each example its class is read.
            token_types: 0 or 1 for each token of each example.
            rejected: of pairs, whose chosen halves the examples are: tokens and which are trained of the others. The
                halves share a prompt: up to the first trained token of either, or to where they part.
            desirable: of single answers to learn preferences from, whether each is desirable.

        Returns:
            The set of all of them.
        """
        lengths = np.array([len(example) for example in tokens], dtype=np.int64)
        names, codes = encode_values(categories) if categories is not None else (None, None)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        mask = np.array([one for example in trained for one in example], dtype=np.uint8)
        halves = {} if rejected is None else _rejected_halves(tokens, trained, rejected)
        counts = count_labels(mask, offsets)
        if rejected is not None:
            counts += np.array([sum(marks[1:]) for _, marks in rejected], dtype=np.int32)
        arrays = ExampleArrays(
            tokens=np.array([token for example in tokens for token in example], dtype=np.int64),
            trained=mask,
            offsets=offsets,
            label_counts=counts if labels is None else np.ones(len(labels), dtype=np.int32),
            category_codes=codes,
            categories=names,
            labels=None if labels is None else np.array(labels, dtype=np.int32),
            places=None if places is None else np.array(places, dtype=np.int32),
            token_types=None if token_types is None else np.concatenate(token_types).astype(np.uint8),
            desirable=None if desirable is None else np.array(desirable, dtype=np.uint8),
            **halves,
        )
        return cls(arrays, np.arange(len(lengths), dtype=np.int64))

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[len] int64, tokens of each example; of a pair those of both halves, each with the prompt."""
        arrays, places = self._arrays, self._indices
        lengths = np.asarray(arrays.offsets[places + 1] - arrays.offsets[places], dtype=np.int64)
        if arrays.rejected_offsets is None or arrays.prompt_lengths is None:
            return lengths
        after = np.asarray(arrays.rejected_offsets[places + 1] - arrays.rejected_offsets[places], dtype=np.int64)
        return lengths + arrays.prompt_lengths[places] + after

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """[len] int64, trained tokens of each example, without one at position 0, which nothing predicts.

        Of a pair those of both answers. Of classification 1: an example's class.
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
        """Read one example's token ids, of a pair the chosen half's: [length] int64."""
        return np.asarray(self._arrays.tokens[self._range(place)], dtype=np.int64)

    def trained(self, place: int) -> NDArray[np.bool_]:
        """Read which tokens of one example the model learns to predict, of a pair the chosen half's: [length] bool."""
        return np.asarray(self._arrays.trained[self._range(place)], dtype=np.bool_)

    def rejected(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
        """Read the rejected half of a pair: token ids [length] int64 and which are trained [length] bool.

        Returns:
            None for examples that are no pairs. The prompt's tokens, before the first trained one, are those of
            `tokens`.
        """
        arrays, index = self._arrays, int(self._indices[place])
        if arrays.rejected_tokens is None:
            return None
        assert arrays.rejected_trained is not None
        assert arrays.rejected_offsets is not None
        assert arrays.prompt_lengths is not None
        after = slice(int(arrays.rejected_offsets[index]), int(arrays.rejected_offsets[index + 1]))
        shared = int(arrays.prompt_lengths[index])
        prompt = arrays.tokens[self._range(place)][:shared]
        tokens = np.concatenate([prompt, arrays.rejected_tokens[after]]).astype(np.int64)
        trained = np.concatenate([np.zeros(shared, dtype=np.bool_), arrays.rejected_trained[after].astype(np.bool_)])
        return tokens, trained

    def answer_lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Count what follows the prompts of pairs: [len] int64 tokens in the chosen and the rejected halves.

        Returns:
            None for examples that are no pairs.
        """
        arrays, places = self._arrays, self._indices
        if arrays.rejected_offsets is None or arrays.prompt_lengths is None:
            return None
        chosen = arrays.offsets[places + 1] - arrays.offsets[places] - arrays.prompt_lengths[places]
        rejected = arrays.rejected_offsets[places + 1] - arrays.rejected_offsets[places]
        return np.asarray(chosen, dtype=np.int64), np.asarray(rejected, dtype=np.int64)

    @property
    def all_desirable(self) -> NDArray[np.bool_] | None:
        """[len] bool, whether each answer is desirable; None where no preference is learnt from single answers."""
        desirable = self._arrays.desirable
        return None if desirable is None else np.asarray(desirable[self._indices], dtype=np.bool_)

    def desirable(self, place: int) -> bool | None:
        """Whether one example's answer is desirable; None where no preference is learnt from single answers."""
        desirable = self._arrays.desirable
        return None if desirable is None else bool(desirable[self._indices[place]])

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


def reorder(arrays: ExampleArrays, order: NDArray[np.int64]) -> ExampleArrays:
    """Lay examples end to end in another order.

    Args:
        arrays: the examples.
        order: [examples] int64, which example comes first, second, ...

    Returns:
        New arrays.
    """

    def gathered(flat: NDArray[Any], offsets: NDArray[np.int64] = arrays.offsets) -> NDArray[Any]:
        pieces = [flat[offsets[one] : offsets[one + 1]] for one in order]
        return np.concatenate(pieces) if pieces else flat[:0]

    def moved(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.diff(offsets)[order])]).astype(np.int64)

    def permuted(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[order]

    rejected: dict[str, Any] = {}
    if arrays.rejected_offsets is not None:
        assert arrays.rejected_tokens is not None
        assert arrays.rejected_trained is not None
        rejected = {
            "rejected_tokens": gathered(arrays.rejected_tokens, arrays.rejected_offsets),
            "rejected_trained": gathered(arrays.rejected_trained, arrays.rejected_offsets),
            "rejected_offsets": moved(arrays.rejected_offsets),
        }
    return ExampleArrays(
        tokens=gathered(arrays.tokens),
        trained=gathered(arrays.trained),
        offsets=moved(arrays.offsets),
        label_counts=arrays.label_counts[order],
        category_codes=permuted(arrays.category_codes),
        categories=arrays.categories,
        labels=permuted(arrays.labels),
        places=permuted(arrays.places),
        token_types=None if arrays.token_types is None else gathered(arrays.token_types),
        difficulties=permuted(arrays.difficulties),
        prompt_lengths=permuted(arrays.prompt_lengths),
        desirable=permuted(arrays.desirable),
        **rejected,
    )


def _rejected_halves(
    tokens: Sequence[Sequence[int]],
    trained: Sequence[Sequence[bool]],
    rejected: Sequence[tuple[Sequence[int], Sequence[bool]]],
) -> dict[str, Any]:
    shared = []
    for ids, marks, (others, other_marks) in zip(tokens, trained, rejected, strict=True):
        pairs = enumerate(zip(ids, marks, others, other_marks, strict=False))
        apart = min(len(ids), len(others))
        shared.append(next((at for at, (a, m, b, n) in pairs if m or n or a != b), apart))
    after = [(ids[start:], marks[start:]) for start, (ids, marks) in zip(shared, rejected, strict=True)]
    return {
        "rejected_tokens": np.array([token for ids, _ in after for token in ids], dtype=np.int64),
        "rejected_trained": np.array([mark for _, marks in after for mark in marks], dtype=np.uint8),
        "rejected_offsets": np.cumsum([0, *(len(ids) for ids, _ in after)], dtype=np.int64),
        "prompt_lengths": np.array(shared, dtype=np.int32),
    }


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
