"""What the model that training started from makes of responses: computed once for each example, and kept in a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.loaded_adapters import ORIGINAL_BASE
from fedloom.model.packing import Example
from fedloom.training.responses import partner, response_sums, two_responses

# Of a pass without gradients: a longer one gains nothing on a CPU.
TOKENS = 4096
# A row of the file: the two log-probabilities, and what the second is of, 1 + the row of its response (0: unknown yet).
ROW = np.dtype([("sums", "<f8", 2), ("second", "<i8")])


class ReferenceAdapter:
    """The adapter of the reference, read when it is first needed.

    Args:
        read: reads it; not called where `adapter` was set before.
    """

    def __init__(self, read: Callable[[], Adapter]) -> None:
        self._read = read
        self.adapter: Adapter | None = None

    def __call__(self) -> Adapter:
        """The adapter, fp32 tensors on the CPU."""
        if self.adapter is None:
            self.adapter = self._read()
        return self.adapter


class References:
    """Log-probabilities under the reference, one row for each example of a run.

    A row is what it is whichever examples it was computed with, so it does not matter who computes it: a resumed run
    goes on with the file, and each of several processes fills in what it needs. The file is sparse: it takes up the
    pages of examples that were drawn.

    Args:
        path: of the file, whose name tells it from those of other data and models; made where it is missing.
        rows: examples of the run.
        model: the frozen base.
        grouped: its grouped adapters.
        lanes: in which passes run side by side.
        adapter: of the reference.
        longest: tokens that an example may have.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        model: PreTrainedModel,
        grouped: GroupedAdapter[Any],
        lanes: Lanes,
        adapter: ReferenceAdapter,
        longest: int,
    ) -> None:
        self._path = path
        self._count = rows
        self._model = model
        self._grouped = grouped
        self._lanes = lanes
        self._adapter = adapter
        self._longest = longest

    @cached_property
    def _rows(self) -> NDArray[Any]:
        """The mapped file, made when it is first needed: who only evaluates writes nothing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            # All zeros; of what another process has written nothing is lost.
            file.truncate(self._count * ROW.itemsize)
        # np.memmap itself runs Python code at every index.
        return np.asarray(np.memmap(self._path, ROW, "r+", shape=(self._count,)))

    def prepare(self, sets: Iterable[ExampleSet]) -> None:
        """Compute what is missing, in passes over the examples of all sets together.

        Args:
            sets: all examples of each client that is going to train, as they are stored.
        """
        taken: deque[list[tuple[int, int]]] = deque()

        def passes() -> Iterator[list[Example]]:
            for one in self._passes(sets):
                taken.append([address for address, _ in one])
                yield [example for _, pair in one for example in pair]

        def sums_of(sequences: list[Example]) -> np.ndarray:
            return sequence_sums(self._model, self._grouped, self._adapter(), sequences)

        for sums in self._lanes.map(sums_of, passes()):
            for (row, second), found in zip(taken.popleft(), sums, strict=True):
                self._rows[row] = (found, second)

    def of(self, examples: ExampleSet, indices: Iterable[int]) -> Tensor:
        """Look up what was computed.

        Args:
            examples: all of a client's, those that `prepare` was given; of an attacker's, pairs the other way round.
            indices: places of some of them.

        Returns:
            fp64 [n, 2], sums of the log-probabilities of each example's two responses.
        """
        found = []
        for place in map(int, indices):
            row, second = _address(examples, place)
            assert self._rows["second"][row] == second
            sums = self._rows["sums"][row]
            found.append(sums[::-1] if _is_flipped(examples, place) else sums)
        return torch.from_numpy(np.array(found, dtype=np.float64).reshape(-1, 2))

    def _passes(self, sets: Iterable[ExampleSet]) -> Iterator[list[tuple[tuple[int, int], list[Example]]]]:
        """Missing rows, each with its address and its two sequences, in passes."""
        filling: list[tuple[tuple[int, int], list[Example]]] = []
        tokens = 0
        for examples in sets:
            for place in range(len(examples)):
                row, second = _address(examples, place)
                if self._rows["second"][row] == second:
                    continue
                pair = two_responses(examples, [place], self._longest)
                size = sum(len(example.tokens) for example in pair)
                if filling and tokens + size > TOKENS:
                    yield filling
                    filling, tokens = [], 0
                filling.append(((row, second), pair))
                tokens += size
        if filling:
            yield filling


@torch.no_grad()
def sequence_sums(
    model: PreTrainedModel, grouped: GroupedAdapter[Any], adapter: Adapter, sequences: Sequence[Example]
) -> np.ndarray:
    """Log-probabilities of responses under one adapter, on the base as it was before any algorithm added to it.

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        sequences: two for each preference.

    Returns:
        fp64 [preferences, 2]; none depends on what else is in the pass.
    """
    with grouped.borrowed(ORIGINAL_BASE):
        grouped.load([adapter], trainable=False)
        packed = pack_groups(grouped, [sequences], share_prompts=False)
        return response_sums(label_losses(model, grouped, packed), packed)[0].cpu().numpy()


def _address(examples: ExampleSet, place: int) -> tuple[int, int]:
    """An example's row, and what its second sequence is marked by."""
    row = _row(examples, place)
    second = row if examples.desirable(place) is None else _row(examples, partner(examples, place))
    return row, second + 1


def _row(examples: ExampleSet, place: int) -> int:
    key = examples.key(place)
    assert key is not None
    return -1 - key if _is_flipped(examples, place) else key


def _is_flipped(examples: ExampleSet, place: int) -> bool:
    """Whether a pair is the other way round than it is stored: its key is negative."""
    key = examples.key(place)
    return key is not None and key < 0
