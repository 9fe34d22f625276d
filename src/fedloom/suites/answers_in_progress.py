"""Answers in progress as rows of one batch: a row whose answer has ended takes the next prompt."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from fedloom.randomness import numpy_generator
from fedloom.suites.items import Limits
from fedloom.suites.key_values import bytes_per_token, empty_cache, joined, repeated

# Beyond this many, more rows make no product faster.
MAX_ROWS = 64
# Keys and values of all answers in progress.
MAX_CACHE_BYTES = 1 << 30
# Prompt tokens of one pass, padding included.
MAX_PROMPT_TOKENS = 4096
# A beginning that all prompts share, such as solved examples, is computed once if it has at least this many tokens.
SHORTEST_SHARED = 32
# Rows are taken anew when one in so many has ended: each time, keys and values are copied.
REFILLED_SHARE = 4


@dataclass
class Answer:
    """One answer.

    Args:
        prompt: [tokens] int64.
        longest: most new tokens.
        address: of its random draws.
        tokens: what has been generated.
        ended: whether it is complete.
        cut_off: whether it would go on.
        truncated: whether the prompt has lost its beginning.
    """

    prompt: NDArray[np.int64]
    longest: int
    address: str
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    cut_off: bool = False
    truncated: bool = False


@dataclass
class _Rows:
    answers: list[Answer]
    cache: DynamicCache
    # int64 [rows, tokens]: 0 for what fills a shorter row up.
    visible: Tensor


class AnswersInProgress:
    """Works answers off on a model that keeps keys and values of every token.

    Args:
        model: a causal language model of transformers, or PEFT's around one.
        limits: length, stop strings and sampling.
        tokenizer: decodes, to find stop strings.
        ends: token ids that end an answer.
    """

    def __init__(self, model: Any, limits: Limits, tokenizer: Any, ends: Sequence[int]) -> None:
        self._model, self._limits, self._tokenizer, self._ends = model, limits, tokenizer, frozenset(ends)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = inner.config.get_text_config()
        self._layers = config.num_hidden_layers
        self._takes = set(inspect.signature(inner.forward).parameters)
        kinds = getattr(config, "layer_types", None) or []
        # A window counts tokens of the cache, so there must be no gap between a shared beginning and what follows it.
        self._shares = "sliding_attention" not in kinds and getattr(config, "sliding_window", None) is None
        self._device = next(model.parameters()).device
        # A token has at least one byte, a character at most four.
        self._tail = 4 * max(map(len, limits.stop), default=0) + 8
        self._generators: dict[str, np.random.Generator] = {}

    def work_off(self, answers: Sequence[Answer]) -> None:
        """Bring answers to their end, the longest prompts first.

        Args:
            answers: none begun.
        """
        if not answers:
            return
        waiting = deque(sorted(answers, key=lambda answer: -len(answer.prompt)))
        shared = shared_beginning([answer.prompt for answer in answers]) if self._shares and len(answers) > 1 else 0
        beginning = self._beginning(answers[0].prompt[:shared]) if shared >= SHORTEST_SHARED else None
        rows = next(self._begun([waiting.popleft()], beginning))
        needed = (len(rows.answers[0].prompt) + self._limits.max_new_tokens) * bytes_per_token(rows.cache)
        most = max(1, min(MAX_ROWS, MAX_CACHE_BYTES // needed))
        while waiting or not all(answer.ended for answer in rows.answers):
            ended = sum(answer.ended for answer in rows.answers)
            free = most - len(rows.answers) + ended if waiting else ended
            if free * REFILLED_SHARE >= most or ended * REFILLED_SHARE >= len(rows.answers):
                taken = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                rows = self._kept([rows, *self._begun(taken, beginning)])
                if not rows.answers:
                    continue
            last = [[answer.tokens[-1]] for answer in rows.answers]
            rows.visible = torch.nn.functional.pad(rows.visible, (0, 1), value=1)
            self._take_tokens(rows, self._forward(torch.tensor(last), rows.visible, rows.cache))

    def _beginning(self, tokens: NDArray[np.int64]) -> DynamicCache:
        cache = empty_cache(self._layers)
        self._forward(torch.from_numpy(tokens)[None], torch.ones(1, len(tokens), dtype=torch.int64), cache)
        return cache

    def _begun(self, answers: Sequence[Answer], beginning: DynamicCache | None) -> Iterator[_Rows]:
        """Compute prompts, as many of them at once as a pass holds, and take their first tokens."""
        shared = 0 if beginning is None else beginning.get_seq_length()
        first = 0
        while first < len(answers):
            # Those after it are not longer.
            longest = len(answers[first].prompt) - shared
            part = answers[first : first + max(1, MAX_PROMPT_TOKENS // longest)]
            first += len(part)
            tokens = torch.zeros(len(part), longest, dtype=torch.int64)
            visible = torch.ones(len(part), shared + longest, dtype=torch.int64)
            for row, answer in enumerate(part):
                rest = answer.prompt[shared:]
                tokens[row, longest - len(rest) :] = torch.from_numpy(rest)
                visible[row, shared : shared + longest - len(rest)] = 0
            cache = empty_cache(self._layers) if beginning is None else repeated(beginning, len(part))
            rows = _Rows(list(part), cache, visible.to(self._device))
            self._take_tokens(rows, self._forward(tokens, rows.visible, cache))
            yield rows

    def _kept(self, parts: Sequence[_Rows]) -> _Rows:
        """The rows whose answers go on, with as few tokens in front of the longest as possible."""
        going_on = [[row for row, answer in enumerate(part.answers) if not answer.ended] for part in parts]
        answers = [part.answers[row] for part, rows in zip(parts, going_on, strict=True) for row in rows]
        if not answers:
            return _Rows([], parts[0].cache, parts[0].visible)
        shown = [part.visible[rows] for part, rows in zip(parts, going_on, strict=True) if rows]
        length = max(visible.shape[1] - int(visible.any(dim=0).int().argmax()) for visible in shown)
        # Where there is less room than before, this cuts off in front.
        aligned = [torch.nn.functional.pad(visible, (length - visible.shape[1], 0)) for visible in shown]
        cache = joined([(part.cache, rows) for part, rows in zip(parts, going_on, strict=True) if rows], length)
        return _Rows(answers, cache, torch.cat(aligned))

    def _forward(self, tokens: Tensor, visible: Tensor, cache: DynamicCache) -> Tensor:
        """Logits [rows, vocabulary] after the last of `tokens` [rows, new]; the cache takes the tokens in."""
        tokens, visible = tokens.to(self._device), visible.to(self._device)
        arguments: dict[str, Any] = {}
        if "position_ids" in self._takes:
            arguments["position_ids"] = (visible.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = 1
        output = self._model(
            input_ids=tokens, attention_mask=visible, past_key_values=cache, use_cache=True, **arguments
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _take_tokens(self, rows: _Rows, logits: Tensor) -> None:
        """Give every answer that goes on its next token, and see whether it ends with it."""
        for answer, token in zip(rows.answers, self._chosen(rows.answers, logits), strict=True):
            if answer.ended:
                continue
            if token in self._ends:
                answer.ended = True
                continue
            answer.tokens.append(token)
            stopped, full = self._stops(answer.tokens), len(answer.tokens) >= answer.longest
            answer.ended, answer.cut_off = stopped or full, full and not stopped

    def _chosen(self, answers: Sequence[Answer], logits: Tensor) -> list[int]:
        if self._limits.temperature == 0:
            greedy: list[int] = logits.argmax(dim=-1).tolist()
            return greedy
        cumulative = torch.softmax(logits.double() / self._limits.temperature, dim=-1).cumsum(dim=-1)
        draws = torch.tensor([0.0 if one.ended else self._draw(one.address) for one in answers], dtype=torch.float64)
        # The last sum may be a little below one.
        thresholds = draws[:, None].to(self._device) * cumulative[:, -1:]
        chosen: list[int] = torch.searchsorted(cumulative, thresholds, right=True)[:, 0].tolist()
        return chosen

    def _draw(self, address: str) -> float:
        if address not in self._generators:
            self._generators[address] = numpy_generator(self._limits.seed, "answer", client=address)
        return self._generators[address].random()

    def _stops(self, tokens: Sequence[int]) -> bool:
        if not self._limits.stop:
            return False
        text = self._tokenizer.decode(tokens[-self._tail :])
        return any(stop in text for stop in self._limits.stop)


def shared_beginning(prompts: Sequence[NDArray[np.int64]]) -> int:
    """How many tokens all prompts begin with, but for the last token of each.

    Args:
        prompts: [tokens] int64 each, none empty.

    Returns:
        A number of tokens less than the shortest prompt's.
    """
    shared = min(map(len, prompts)) - 1
    for prompt in prompts[1:]:
        differing = np.flatnonzero(prompt[:shared] != prompts[0][:shared])
        shared = int(differing[0]) if len(differing) else shared
    return shared
