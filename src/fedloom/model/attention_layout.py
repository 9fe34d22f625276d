"""Where the sequences of a packed batch lie, and how attention gathers them into buckets of equal shape and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# A sequence is padded to a length that follows from its own length alone, four steps to an octave. What it is padded
# to then never depends on its neighbours, and neither does a single bit of its result.
STEPS_PER_OCTAVE = 4
SHORTEST = 8
# Queries are worked off in blocks, and a block multiplies no keys that lie after it. A block of fewer queries saves
# less than it costs.
FEWEST_QUERIES = 64
MOST_QUERIES = 128
# Own keys begin at a multiple of this many places: rows of whole vectors are a fifth faster.
VECTOR = 16


@dataclass(frozen=True)
class Bucket:
    """Sequences with the same shape, for batched products.

    Args:
        sequences: how many.
        prefix: tokens of a shared prompt that each of them sees before its own, see `packing`.
        length: what its own tokens are padded to.
    """

    sequences: int
    prefix: int
    length: int

    @property
    def padded_prefix(self) -> int:
        """Places of the shared prompt, padded to whole vectors."""
        return -(-self.prefix // VECTOR) * VECTOR

    @property
    def keys(self) -> int:
        """Padded places a sequence can see: the shared prompt's, then its own."""
        return self.padded_prefix + self.length

    @property
    def blocks(self) -> int:
        """Equal blocks its queries are worked off in: as many as leave each block `FEWEST_QUERIES`, at least."""
        fewest = -(-self.length // MOST_QUERIES)
        for blocks in range(max(fewest, self.length // FEWEST_QUERIES), fewest, -1):
            if self.length % blocks == 0:
                return blocks
        return next(blocks for blocks in range(fewest, self.length + 1) if self.length % blocks == 0)

    @property
    def block_length(self) -> int:
        """Places of one block."""
        return self.length // self.blocks


@dataclass(frozen=True)
class HeadIndex:
    """The layout for a number of heads: rows of [tokens * columns, dim] to padded rows of [.., dim] and back.

    Queries of a bucket are ordered [block, sequence, key head, query head of the key head, place], keys and values
    [sequence, key head, place]. All queries come first, bucket after bucket, then all keys, then all values.

    Args:
        gather: int64 [padded], the row of each padded row (0 where nothing is).
        scatter: int64 [tokens * columns], the padded row of each row.
        out_gather: int64 [padded queries], the row of [tokens * heads, dim] of each padded query.
        out_scatter: int64 [tokens * heads], the padded query of each.
        nothing: int64, padded queries that hold no token.
        shared_rows: int64, rows of shared prompts, one entry for each sequence that sees them.
        shared_places: int64, the padded rows of these entries.
        queries: number of padded queries.
        keys: number of padded keys.
    """

    gather: Tensor
    scatter: Tensor
    out_gather: Tensor
    out_scatter: Tensor
    nothing: Tensor
    shared_rows: Tensor
    shared_places: Tensor
    queries: int
    keys: int


@dataclass(frozen=True)
class VariableLength:
    """The layout as kernels for variable lengths want it: sequences end to end, keys with their shared prompts.

    Args:
        keys: int64 [seen], the packed token of each key, sequence after sequence; None where it is the tokens in order.
        query_starts: int32 [sequences + 1], where each sequence's queries begin.
        key_starts: int32 [sequences + 1], where its keys begin.
        longest_query: tokens of the longest sequence.
        longest_key: keys of the sequence that sees most.
    """

    keys: Tensor | None
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


class AttentionLayout:
    """Where the sequences of a packed batch lie.

    Args:
        lengths: int64 [sequences], own tokens of each sequence, in packed order.
        prompts: for each sequence the sequence that holds its shared prompt, or -1; default: none shares any.
        device: where index tensors go.
    """

    def __init__(
        self, lengths: np.ndarray, prompts: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        parents = np.full(len(lengths), -1) if prompts is None else np.asarray(prompts)
        self.device = torch.device(device)
        self.tokens = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        padded = padded_lengths(lengths)
        prefixes = np.where(parents < 0, 0, lengths[parents])
        order = np.lexsort((padded, prefixes))
        edges = np.flatnonzero(np.diff(prefixes[order]) | np.diff(padded[order])) + 1
        self.buckets: list[Bucket] = []
        # For each bucket: the packed token of each padded query and key place, and which places hold own tokens.
        self.members: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for members in np.split(order, edges):
            bucket = Bucket(len(members), int(prefixes[members[0]]), int(padded[members[0]]))
            place = np.arange(bucket.length)[None, :]
            inside = place < lengths[members][:, None]
            own = np.where(inside, starts[members][:, None] + place, 0)
            place = np.arange(bucket.padded_prefix)[None, :]
            shared = np.where(place < bucket.prefix, starts[parents[members]][:, None] + place, 0)
            self.buckets.append(bucket)
            self.members.append((own, np.concatenate([shared, own], axis=1), inside))
        self._heads: dict[tuple[int, int], HeadIndex] = {}
        self._padding: dict[int, list[Tensor]] = {}
        self._lengths, self._parents = lengths, parents

    def heads(self, heads: int, key_heads: int) -> HeadIndex:
        """The gathers for rows of q, k and v heads side by side, computed once for each pair of numbers.

        Args:
            heads: query heads.
            key_heads: key/value heads.

        Returns:
            The indices.
        """
        if (heads, key_heads) not in self._heads:
            self._heads[heads, key_heads] = self._index(heads, key_heads)
        return self._heads[heads, key_heads]

    def padding(self, key_heads: int) -> list[Tensor]:
        """Which keys are padding, for attention that is not causal: else a query sees none of them in any case.

        Args:
            key_heads: key/value heads.

        Returns:
            For each bucket fp32 [sequences * key heads, 1, keys], to be added to scores: -inf at padding, else 0.
        """
        if key_heads not in self._padding:
            self._padding[key_heads] = [
                self._tensor(np.where(self._seen(bucket, inside), np.float32(0), np.float32(-np.inf)))
                .repeat_interleave(key_heads, 0)
                .unsqueeze(1)
                for bucket, (_, _, inside) in zip(self.buckets, self.members, strict=True)
            ]
        return self._padding[key_heads]

    @staticmethod
    def _seen(bucket: Bucket, inside: np.ndarray) -> np.ndarray:
        """Which padded key places hold a token of the shared prompt or of the sequence: bool [sequences, keys]."""
        of_prompt = np.broadcast_to(
            np.arange(bucket.padded_prefix) < bucket.prefix, (bucket.sequences, bucket.padded_prefix)
        )
        return np.concatenate([of_prompt, inside], axis=1)

    @cached_property
    def variable_length(self) -> VariableLength:
        """The layout for kernels of variable lengths; a sequence's last query sees all of its keys."""
        lengths, parents = self._lengths, self._parents
        starts = np.cumsum(lengths) - lengths
        seen = lengths + np.where(parents < 0, 0, lengths[parents])
        keys = None
        if (parents >= 0).any():
            parts = []
            for own, parent in enumerate(parents):
                for sequence in (own,) if parent < 0 else (parent, own):
                    parts.append(np.arange(starts[sequence], starts[sequence] + lengths[sequence]))
            keys = self._tensor(np.concatenate(parts))
        query_starts, key_starts = (self._tensor(np.cumsum([0, *sizes])).int() for sizes in (lengths, seen))
        return VariableLength(keys, query_starts, key_starts, int(lengths.max()), int(seen.max()))

    def _index(self, heads: int, key_heads: int) -> HeadIndex:
        columns, repeat = heads + 2 * key_heads, heads // key_heads
        queries = sum(bucket.sequences * bucket.length for bucket in self.buckets) * heads
        keys = sum(bucket.sequences * bucket.keys for bucket in self.buckets) * key_heads
        gather = np.zeros(queries + 2 * keys, dtype=np.int64)
        out_gather = np.zeros(queries, dtype=np.int64)
        nothing = np.zeros(queries, dtype=bool)
        scatter = np.zeros((self.tokens, columns), dtype=np.int64)
        shared: list[tuple[np.ndarray, np.ndarray]] = []
        query_start, key_start = 0, queries
        head = np.arange(heads).reshape(key_heads, repeat, 1)
        for bucket, (own, seen, inside) in zip(self.buckets, self.members, strict=True):
            count = bucket.sequences * bucket.length * heads
            token, real = (x.reshape(bucket.sequences, bucket.blocks, 1, 1, -1).swapaxes(0, 1) for x in (own, inside))
            place = slice(query_start, query_start + count)
            rows = token * columns + head
            gather[place] = rows.ravel()
            out_gather[place] = (token * heads + head).ravel()
            real = np.broadcast_to(real, rows.shape).ravel()
            nothing[place] = ~real
            row = gather[place][real]
            scatter.reshape(-1)[row] = query_start + np.flatnonzero(real)
            query_start += count

            key_head = np.arange(key_heads).reshape(1, key_heads, 1)
            count = bucket.sequences * bucket.keys * key_heads
            valid = np.concatenate([np.zeros((bucket.sequences, bucket.padded_prefix), dtype=bool), inside], axis=1)
            valid = np.broadcast_to(valid[:, None], (bucket.sequences, key_heads, bucket.keys)).ravel()
            for column, first in ((heads, key_start), (heads + key_heads, key_start + keys)):
                rows = (seen[:, None] * columns + column + key_head).ravel()
                gather[first : first + count] = rows
                scatter.reshape(-1)[rows[valid]] = first + np.flatnonzero(valid)
                if bucket.prefix:
                    of_prompt = np.broadcast_to(
                        np.arange(bucket.keys) < bucket.prefix, (bucket.sequences, key_heads, bucket.keys)
                    ).ravel()
                    shared.append((rows[of_prompt], first + np.flatnonzero(of_prompt)))
            key_start += count
        empty = np.empty(0, dtype=np.int64)
        return HeadIndex(
            gather=self._tensor(gather),
            scatter=self._tensor(scatter.ravel()),
            out_gather=self._tensor(out_gather),
            out_scatter=self._tensor(np.ascontiguousarray(scatter[:, :heads]).ravel()),
            nothing=self._tensor(np.flatnonzero(nothing)),
            shared_rows=self._tensor(np.concatenate([empty, *(rows for rows, _ in shared)])),
            shared_places=self._tensor(np.concatenate([empty, *(places for _, places in shared)])),
            queries=queries,
            keys=keys,
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)


def padded_lengths(lengths: np.ndarray) -> np.ndarray:
    """The length each sequence is padded to inside attention.

    Args:
        lengths: int64 [sequences].

    Returns:
        int64 [sequences]: the next multiple of a quarter of the power of two below, at least `SHORTEST`.
    """
    octave = np.floor(np.log2(np.maximum(lengths - 1, 1))).astype(np.int64)
    step = np.maximum((1 << octave) // STEPS_PER_OCTAVE, SHORTEST)
    padded: np.ndarray = -(-lengths // step) * step
    return padded
