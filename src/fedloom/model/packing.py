"""Batches without padding: the examples of several groups laid end to end, group after group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloom.model.attention_layout import AttentionLayout
from fedloom.model.shared_prompts import shared_prompts

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
        key: tells it from all other examples of the run; None where nobody asks.
        label: its class, where examples are to be classified; None where tokens are to be predicted.
        place: the token at which its class is read; None: the one the model reads it at, the first or the last.
        token_types: uint8 [length], 0 or 1 for tokens of the first or second sentence, for tokenizers that tell.
        family: only examples of one group and one family share beginnings; by default all of a group do.
    """

    tokens: np.ndarray
    trained: np.ndarray
    key: int | None = None
    label: int | None = None
    place: int | None = None
    token_types: np.ndarray | None = None
    family: int | None = None


@dataclass(frozen=True)
class PackedBatch:
    """Examples of G groups as one row of tokens.

    A beginning that several examples of a group share lies there once, as a sequence of its own (`shared_prompts`), and
    so do the places of virtual tokens, which come before the text of every example.

    Args:
        input_ids: int64 [1, tokens]; 0 at the places of virtual tokens.
        position_ids: int64 [1, tokens], counted from 0 in every example, virtual tokens included.
        layout: the sequences, for attention.
        group_starts: G + 1 token positions; group g owns tokens [group_starts[g], group_starts[g + 1]). Tokens after
            the last are filler (see FEWEST_ROWS).
        label_positions: int64 [labels], the tokens whose logits predict a label.
        labels: int64 [labels], the tokens to predict; of classification the classes, one for each example.
        label_groups: int64 [labels], the group of each label.
        label_examples: int64 [labels], the example (in the groups' order) of each label.
        label_counts: int64 [G], labels of each group.
        example_tokens: int64 [G], tokens of each group's examples, shared ones counted in every example, virtual ones
            in none.
        examples: the examples, in the groups' order.
        example_rows: int64 [tokens], each token's place among the tokens of all examples end to end (0 for filler and
            virtual tokens).
        virtual_rows: int64 [places], the tokens that are places of virtual tokens.
        virtual_sources: int64 [places], for each of them group * virtual tokens + number of the virtual token.
        token_type_ids: int64 [1, tokens], 0 for virtual tokens and filler; None where no example has any.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: AttentionLayout
    group_starts: tuple[int, ...]
    label_positions: Tensor
    labels: Tensor
    label_groups: Tensor
    label_examples: Tensor
    label_counts: Tensor
    example_tokens: np.ndarray
    examples: tuple[Example, ...]
    example_rows: Tensor
    virtual_rows: Tensor
    virtual_sources: Tensor
    token_type_ids: Tensor | None

    @property
    def groups(self) -> int:
        """Number of groups G."""
        return len(self.group_starts) - 1

    @property
    def tokens(self) -> int:
        """Number of the groups' tokens in the pass."""
        return self.group_starts[-1]


@dataclass(frozen=True)
class _Sequence:
    """A run of tokens: a shared prompt (as part of its first example), or what an example has of its own.

    The first `virtual` of them are places of virtual tokens. `read` is the place of the one at which `label` is read.
    """

    tokens: np.ndarray
    trained: np.ndarray
    first_position: int
    prompt: int
    group: int
    example: int
    virtual: int = 0
    label: int | None = None
    read: int = 0
    token_types: np.ndarray | None = None


def pack(
    groups: Sequence[Sequence[Example]],
    device: torch.device | str = "cpu",
    share_prompts: bool = True,
    virtual_tokens: int = 0,
    virtual_apart: bool = False,
    read_first: bool = False,
) -> PackedBatch:
    """Lay the examples of every group end to end.

    Args:
        groups: for each group its examples; a group may be empty.
        device: where the tensors go.
        share_prompts: whether beginnings that a group's examples share are computed once. Not where an example's last
            bits must not depend on the others of its group.
        virtual_tokens: places before the text of every example.
        virtual_apart: whether every example has such places of its own. Else they are shared in any case, as in a
            causal model they look the same whichever examples there are.
        read_first: whether a class without a place is read at an example's first token (a virtual one, where it has
            its own), as encoders do, or at its last.

    Returns:
        The batch.
    """
    sequences: list[_Sequence] = []
    examples: list[Example] = []
    for group, members in enumerate(groups):
        parts = _Parts(group, len(sequences), len(examples), virtual_tokens, read_first)
        sequences.extend(parts.apart(members) if virtual_apart else parts.shared(members, share_prompts))
        examples.extend(members)
    filler = filler_tokens(sum(len(sequence.tokens) for sequence in sequences))
    if filler:
        nothing = np.zeros(filler, dtype=bool)
        sequences.append(_Sequence(nothing.astype(np.int64), nothing, 0, -1, len(groups), len(examples)))
    lengths = np.array([len(sequence.tokens) for sequence in sequences], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    tokens = np.concatenate([sequence.tokens for sequence in sequences])
    offsets = np.array([sequence.first_position for sequence in sequences]) - starts
    group_of, example_of = (
        np.repeat([getattr(sequence, name) for sequence in sequences], lengths) for name in ("group", "example")
    )
    positions = np.arange(len(tokens)) + np.repeat(offsets, lengths)
    reads, labels = _labels(sequences, starts, tokens)
    first_rows = np.cumsum([0, *(len(example.tokens) for example in examples)])
    example_rows = first_rows[example_of] + np.maximum(positions - virtual_tokens, 0)
    if filler:
        example_rows[-filler:] = 0
    with_virtual = [place for place, sequence in enumerate(sequences) if sequence.virtual]
    virtual_rows = (starts[with_virtual][:, None] + np.arange(virtual_tokens)).ravel()
    virtual_sources = group_of[virtual_rows] * virtual_tokens + positions[virtual_rows]
    tokens_per_group = np.bincount(group_of, minlength=len(groups))[: len(groups)]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)

    return PackedBatch(
        input_ids=tensor(tokens)[None],
        position_ids=tensor(positions)[None],
        layout=AttentionLayout(lengths, [sequence.prompt for sequence in sequences], device),
        group_starts=(0, *(int(stop) for stop in np.cumsum(tokens_per_group))),
        label_positions=tensor(reads),
        labels=tensor(labels),
        label_groups=tensor(group_of[reads]),
        label_examples=tensor(example_of[reads]),
        label_counts=tensor(np.bincount(group_of[reads], minlength=len(groups))),
        example_tokens=np.array([sum(len(e.tokens) for e in members) for members in groups], dtype=np.int64),
        examples=tuple(examples),
        example_rows=tensor(example_rows),
        virtual_rows=tensor(virtual_rows),
        virtual_sources=tensor(virtual_sources),
        token_type_ids=_token_types(sequences, tensor),
    )


def _labels(sequences: Sequence[_Sequence], starts: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens at which labels are read, and the labels: tokens that follow, or classes."""
    classified = [place for place, sequence in enumerate(sequences) if sequence.label is not None]
    if classified:
        reads = starts[classified] + [sequences[place].read for place in classified]
        return reads, np.array([sequences[place].label for place in classified])
    targets = np.flatnonzero(np.concatenate([sequence.trained for sequence in sequences]))
    return targets - 1, tokens[targets]


def _token_types(sequences: Sequence[_Sequence], tensor: Callable[[np.ndarray], Tensor]) -> Tensor | None:
    if all(sequence.token_types is None for sequence in sequences):
        return None
    found = [np.zeros(len(s.tokens)) if s.token_types is None else s.token_types for s in sequences]
    return tensor(np.concatenate(found))[None]


@dataclass(frozen=True)
class _Parts:
    """Cuts the examples of a group into sequences.

    Args:
        group: its number.
        first: sequences before it.
        first_example: examples before it.
        virtual: places of virtual tokens before every text.
        read_first: see `pack`.
    """

    group: int
    first: int
    first_example: int
    virtual: int
    read_first: bool

    def apart(self, examples: Sequence[Example]) -> list[_Sequence]:
        """A sequence for each example, with its own places of virtual tokens."""
        return [self._own(place, example, 0, -1, self.virtual) for place, example in enumerate(examples)]

    def shared(self, examples: Sequence[Example], share: bool) -> list[_Sequence]:
        """What the examples share, then what each has of its own."""
        usable = [_usable(example) if share else 0 for example in examples]
        found: list[_Sequence] = []
        shared_by = {}

        def add_shared(members: Sequence[int], length: int) -> None:
            owner = examples[members[0]]
            tokens = _after_virtual(owner.tokens[:length], self.virtual)
            types = None if owner.token_types is None else _after_virtual(owner.token_types[:length], self.virtual)
            shared_by.update(dict.fromkeys(members, (self.first + len(found), length)))
            trained, number = np.zeros(len(tokens), dtype=bool), self.first_example + members[0]
            found.append(_Sequence(tokens, trained, 0, -1, self.group, number, virtual=self.virtual, token_types=types))

        families: dict[int | None, list[int]] = {}
        for place, example in enumerate(examples):
            families.setdefault(example.family, []).append(place)
        for members in families.values():
            for prompt in shared_prompts([examples[at].tokens for at in members], [usable[at] for at in members]):
                add_shared([members[at] for at in prompt.members], prompt.length)
        others = [place for place in range(len(examples)) if place not in shared_by]
        if self.virtual and others:
            add_shared(others, 0)
        for place, example in enumerate(examples):
            before, start = shared_by.get(place, (-1, 0))
            found.append(self._own(place, example, start, before, 0))
        return found

    def _own(self, place: int, example: Example, start: int, prompt: int, virtual: int) -> _Sequence:
        """What an example has of its own: from `start` on, after places of virtual tokens of its own."""
        trained = _after_virtual(np.array(example.trained[start:], dtype=bool), virtual)
        # The first token of an example has no predecessor that could predict it. (A virtual token could; but then
        # some kinds of adapters would be tested on more labels than others.)
        trained[virtual] = False
        read = 0 if self.read_first else len(trained) - 1
        types = example.token_types
        return _Sequence(
            _after_virtual(example.tokens[start:], virtual),
            trained,
            first_position=0 if virtual else self.virtual + start,
            prompt=prompt,
            group=self.group,
            example=self.first_example + place,
            virtual=virtual,
            label=example.label,
            read=read if example.place is None else example.place - start + virtual,
            token_types=None if types is None else _after_virtual(types[start:], virtual),
        )


def _after_virtual(values: np.ndarray, virtual: int) -> np.ndarray:
    return np.concatenate([np.zeros(virtual, dtype=values.dtype), values])


def _usable(example: Example) -> int:
    """How many first tokens of an example may be shared: what comes before the token that predicts its first label."""
    if example.place is not None:
        return example.place
    labels = np.flatnonzero(example.trained[1:])
    return int(labels[0]) if len(labels) else len(example.tokens) - 1


def filler_tokens(tokens: int) -> int:
    """How many tokens fill a batch up; see FEWEST_ROWS.

    Args:
        tokens: of the batch.

    Returns:
        Number of tokens that belong to nobody.
    """
    return -tokens % (FEWEST_ROWS * torch.get_num_threads())
