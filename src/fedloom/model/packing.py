"""Batches without padding: the examples of several groups laid end to end, group after group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloom.model.attention import AttentionLayout


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
        group_starts: G + 1 token positions; group g owns tokens [group_starts[g], group_starts[g + 1]).
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
        """Number of tokens, none of them padding."""
        return self.input_ids.shape[1]


def pack(groups: Sequence[Sequence[Example]], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay the examples of every group end to end.

    Args:
        groups: for each group its examples; a group may be empty.
        device: where the tensors go.

    Returns:
        The batch.
    """
    examples = [example for group in groups for example in group]
    lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    tokens = np.concatenate([example.tokens for example in examples])
    trained = np.concatenate([example.trained for example in examples]).astype(bool)
    sequence_starts = np.concatenate([[0], np.cumsum(lengths)])
    # The first token of a sequence has no predecessor that could predict it.
    trained[sequence_starts[:-1]] = False
    sequences = np.repeat(np.arange(len(examples)), lengths)
    group_of_example = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    tokens_per_group = np.bincount(group_of_example[sequences], minlength=len(groups))
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
