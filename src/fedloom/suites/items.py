"""What passes between tasks, kinds, subjects and files of outcomes: items, likelihoods, outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """One example of a task.

    Args:
        key: names it within its task, whatever part of the task is evaluated: "anatomy/17".
        category: its subject, task, language or the like; None where a task has none.
        fields: what the prompt's template and the grading need, JSON values.
    """

    key: str
    category: str | None
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Args:
        key: the item's.
        category: the item's.
        measures: by name; a task's measure is the mean over its items, and the standard error comes from them.
        flags: what has to be counted beside the measures, such as "truncated" or "unparsable".
        output: what the model gave, JSON; kept.
    """

    key: str
    category: str | None
    measures: Mapping[str, float]
    flags: tuple[str, ...]
    output: Any


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a continuation.

    Args:
        log_probability: of the whole continuation, nats: the sum over its tokens.
        tokens: how many these are.
        is_greedy: whether greedy decoding would give exactly this continuation.
        truncated: whether the context was cut at its beginning, because the model has no room for all of it.
    """

    log_probability: float
    tokens: int
    is_greedy: bool
    truncated: bool = False


@dataclass(frozen=True)
class Limits:
    """Where a generated text ends.

    Args:
        max_new_tokens: the longest one.
        stop: it ends before the first of these.
        temperature: of sampling; 0: greedy.
        seed: of sampling.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model has written.

    Args:
        text: up to the first stop string.
        cut_off: whether it ends only because it must not be longer.
        truncated: whether the prompt was cut at its beginning, because the model has no room for all of it.
    """

    text: str
    cut_off: bool = False
    truncated: bool = False
