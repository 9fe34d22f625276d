"""Beginnings that examples of one group share: computed once, seen by all of them.

The tokens of a causal model see only what precedes them, so under one adapter the same beginning has the same
activations in every example. Instruction data is full of them: the words of a template, a task's definition, a system
message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A shorter beginning saves less than its own pass through attention costs.
SHORTEST_SHARED = 16


@dataclass(frozen=True)
class SharedPrompt:
    """A beginning that several examples have in common.

    Args:
        members: places of the examples.
        length: tokens they share; none of them predicts a label.
    """

    members: tuple[int, ...]
    length: int


def shared_prompts(examples: Sequence[np.ndarray], usable: Sequence[int]) -> list[SharedPrompt]:
    """Find the beginnings that two or more examples share.

    Args:
        examples: int64 [length] tokens of each example.
        usable: for each example, how many of its first tokens may be shared.

    Returns:
        Prompts of at least `SHORTEST_SHARED` tokens, no example in more than one.
    """
    # Examples with a common beginning are neighbours in the order of their tokens.
    keys = [tokens[:limit].astype(">u4").tobytes() for tokens, limit in zip(examples, usable, strict=True)]
    order = sorted(range(len(examples)), key=keys.__getitem__)
    prompts: list[SharedPrompt] = []
    members: list[int] = []
    common = 0
    for place in order:
        shared = _common(examples[members[0]][:common], examples[place][: usable[place]]) if members else 0
        if shared < SHORTEST_SHARED:
            _close(prompts, members, common)
            members, common = [place], usable[place]
        else:
            members.append(place)
            common = shared
    _close(prompts, members, common)
    return prompts


def _close(prompts: list[SharedPrompt], members: list[int], common: int) -> None:
    if len(members) > 1:
        prompts.append(SharedPrompt(tuple(sorted(members)), common))


def _common(left: np.ndarray, right: np.ndarray) -> int:
    size = min(len(left), len(right))
    different = np.flatnonzero(left[:size] != right[:size])
    return int(different[0]) if len(different) else size
