"""Likelihoods of continuations, by packed passes over the base and an adapter: nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.errors import UserError
from fedloom.evaluation.passes import TOKENS_PER_PASS
from fedloom.model.forward import pack_groups, score_labels
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.packing import Example
from fedloom.suites.items import Likelihood

# Of a model that does not say how many, as lm-evaluation-harness assumes.
POSITIONS = 2048
# transformers writes a larger number where a tokenizer knows of no limit.
LIMITLESS = 10**9


@dataclass(frozen=True)
class Pair:
    """A context and a continuation as token ids.

    Args:
        context: int64, at least one.
        continuation: int64, at least one.
    """

    context: np.ndarray
    continuation: np.ndarray


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Tokenise contexts and continuations exactly as lm-evaluation-harness does.

    Spaces that a context ends in belong to the continuation. The continuation's tokens are what the tokens of both
    together have beyond as many as the context has alone. An empty context is the token that texts begin with.

    Args:
        tokenizer: of the base model.
        pairs: (context, continuation) texts.

    Returns:
        The token ids of each.

    Raises:
        UserError: where a continuation has no tokens.
    """
    moved = [(context.rstrip(), context[len(context.rstrip()) :] + rest) for context, rest in pairs]
    contexts = _encoded(tokenizer, [context for context, _ in moved])
    wholes = _encoded(tokenizer, [context + rest for context, rest in moved])
    found = []
    for (context, rest), alone, whole in zip(moved, contexts, wholes, strict=True):
        before, after = alone, whole[len(alone) :]
        if not context:
            first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
            before, after = (ids[:1], ids[1:]) if ids[:1] == [first] else ([first], ids)
        if not after:
            raise UserError(f"the tokenizer leaves no token of the continuation {rest!r} after {context[-40:]!r}")
        found.append(Pair(np.array(before, dtype=np.int64), np.array(after, dtype=np.int64)))
    return found


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with what a tokenizer puts around texts, but for one that itself says what it begins with."""
    opening = tokenizer.bos_token if isinstance(tokenizer.bos_token, str) else None
    written = [opening is not None and text.startswith(opening) for text in texts]
    encoded = iter(tokenizer(list(texts), verbose=False)["input_ids"] if texts else [])
    return [
        list(tokenizer(text, add_special_tokens=False)["input_ids"]) if bare else list(ids)
        for text, bare, ids in zip(texts, written, encoded, strict=True)
    ]


def positions_of(model: PreTrainedModel, tokenizer: Any) -> int:
    """How many tokens a model has room for.

    Args:
        model: the base.
        tokenizer: its own.

    Returns:
        What its config says, or else its tokenizer; 2048 where neither does.
    """
    config = model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if (positions := getattr(config, name, None)) is not None:
            return int(positions)
    longest: int = tokenizer.model_max_length
    return longest if longest < LIMITLESS else POSITIONS


def log_likelihoods(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    lanes: Lanes,
    adapter: Mapping[str, Tensor],
    pairs: Sequence[Pair],
    families: Sequence[int],
    positions: int,
) -> list[Likelihood]:
    """Score continuations under one adapter.

    What pairs of one family have in common at their beginnings is computed once. A pair's likelihood is the same, to
    the last bit, whichever other families are scored beside it (on CPUs).

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        lanes: in which passes run side by side.
        adapter: fp32 tensors under PEFT's names.
        pairs: what to score.
        families: for each pair a number; those of one family are neighbours.
        positions: tokens that the model has room for; what is longer loses the beginning of its context.

    Returns:
        One likelihood for each pair.
    """
    # The last token is only predicted: nothing is computed from it, so it takes no place.
    room = positions + 1 - grouped.virtual_tokens
    examples = [_example(pair, room, family) for pair, family in zip(pairs, families, strict=True)]

    def score(some: list[Example]) -> list[tuple[float, bool]]:
        grouped.load([adapter], trainable=False)
        batch = pack_groups(grouped, [some])
        batch = replace(batch, position_ids=batch.position_ids.clamp(max=positions - 1))
        losses, right, _ = score_labels(model, grouped, batch)
        owners = batch.label_examples.cpu().numpy()
        sums = np.bincount(owners, losses.double().cpu().numpy(), len(some))
        wrong = np.bincount(owners, ~right.cpu().numpy(), len(some))
        return [(-float(total), not missed) for total, missed in zip(sums, wrong, strict=True)]

    grouped.change_base(adapter)
    scored = (one for found in lanes.map(score, _passes(examples)) for one in found)
    with torch.no_grad():
        return [
            Likelihood(total, len(pair.continuation), greedy, len(pair.context) + len(pair.continuation) > room)
            for pair, (total, greedy) in zip(pairs, scored, strict=True)
        ]


def _example(pair: Pair, room: int, family: int) -> Example:
    tokens = np.concatenate([pair.context, pair.continuation])
    trained = np.arange(len(tokens)) >= len(pair.context)
    return Example(tokens[-room:], trained[-room:], family=family)


def _passes(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Whole families together, as many as fit into a pass."""
    filling: list[Example] = []
    tokens = 0
    family: list[Example] = []
    for example, following in zip(examples, [*examples[1:], None], strict=True):
        family.append(example)
        if following is not None and following.family == example.family:
            continue
        size = sum(len(one.tokens) for one in family)
        if filling and tokens + size > TOKENS_PER_PASS:
            yield filling
            filling, tokens = [], 0
        filling, tokens, family = [*filling, *family], tokens + size, []
    if filling:
        yield filling
