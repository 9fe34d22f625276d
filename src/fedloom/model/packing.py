"""Batches without padding: the examples of several groups laid end to end, group after group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloom.model.attention import AttentionLayout

# What a client computes must not depend, to the last bit, on who shares its pass. Two habits of CPU kernels would
# make it so: products of very few rows take another path, and elementwise kernels finish each thread's share with
# scalar code (other rounding) where it does not fill whole vectors. A batch therefore has a multiple of this many
# tokens for every thread; a filler sequence that belongs to nobody sees to it. (It also keeps the number of different
# shapes small, for which a CPU compiles bf16 products.)
FEWEST_ROWS = 64


@dataclass(frozen=True)
class Example:
    """One tokenised example.

    Args:
        tokens: int64 [length].
        trained: bool [length], True where the token is to be predicted (response tokens).
    """

    tokens: np.ndarray
    trained: np.ndarray


@dataclass(frozen=True)
class PackedBatch:
    """Examples of G groups as one row of tokens.

    Args:
        input_ids: int64 [1, tokens].
        position_ids: int64 [1, tokens], counted from 0 in every sequence.
        layout: the sequences, for attention.
        group_starts: G + 1 token positions; group g owns tokens [group_starts[g], group_starts[g + 1]). Tokens after
            the last are filler (see FEWEST_ROWS).
        label_positions: int64 [labels], the tokens whose logits predict a label.
        labels: int64 [labels], the tokens to predict.
        label_groups: int64 [labels], the group of each label.
        label_sequences: int64 [labels], the sequence (in packed order) of each label.
        label_counts: int64 [G], labels of each group.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: AttentionLayout
    group_starts: tuple[int, ...]
    label_positions: Tensor
    labels: Tensor
    label_groups: Tensor
    label_sequences: Tensor
    label_counts: Tensor

    @property
    def groups(self) -> int:
        """Number of groups G."""
        return len(self.group_starts) - 1

    @property
    def tokens(self) -> int:
        """Number of the groups' tokens."""
        return self.group_starts[-1]


def pack(groups: Sequence[Sequence[Example]], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay the examples of every group end to end.

    Args:
        groups: for each group its examples; a group may be empty.
        device: where the tensors go.

    Returns:
        The batch.
    """
    examples = [example for group in groups for example in group]
    filler = _filler(sum(len(example.tokens) for example in examples))
    if filler:
        examples.append(Example(np.zeros(filler, dtype=np.int64), np.zeros(filler, dtype=bool)))
    lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    tokens = np.concatenate([example.tokens for example in examples])
    trained = np.concatenate([example.trained for example in examples]).astype(bool)
    sequence_starts = np.concatenate([[0], np.cumsum(lengths)])
    # The first token of a sequence has no predecessor that could predict it.
    trained[sequence_starts[:-1]] = False
    sequences = np.repeat(np.arange(len(examples)), lengths)
    sizes = [len(group) for group in groups]
    group_of_example = np.repeat(np.arange(len(groups)), sizes)
    tokens_per_group = np.bincount(group_of_example, lengths[: len(group_of_example)], minlength=len(groups)).astype(
        np.int64
    )
    targets = np.flatnonzero(trained)
    label_sequences = sequences[targets]
    label_groups = group_of_example[label_sequences]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)

    return PackedBatch(
        input_ids=tensor(tokens)[None],
        position_ids=tensor(np.arange(len(tokens)) - sequence_starts[sequences])[None],
        layout=AttentionLayout.of(lengths, device),
        group_starts=(0, *(int(stop) for stop in np.cumsum(tokens_per_group))),
        label_positions=tensor(targets - 1),
        labels=tensor(tokens[targets]),
        label_groups=tensor(label_groups),
        label_sequences=tensor(label_sequences),
        label_counts=tensor(np.bincount(label_groups, minlength=len(groups))),
    )


def _filler(tokens: int) -> int:
    return -tokens % (FEWEST_ROWS * torch.get_num_threads())
