"""Answers to many prompts at once, greedy or sampled.

An answer is a function of its prompt, of the limits and of which of several equal prompts it belongs to, whatever else
is in the batch. (Up to rounding: products of more rows round otherwise, and where the two largest logits are equal but
for that, greedy decoding may take the other one.)
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.randomness import derive_seed
from fedloom.suites.answers_in_progress import Answer, AnswersInProgress
from fedloom.suites.items import Limits

# Tokens of a prompt that are decoded with what follows it.
LEAD = 8
# Attention of which every token's keys and values are kept.
KEPT_WHOLE = {"full_attention", "sliding_attention"}


def generate(
    model: Any, prompts: Sequence[NDArray[np.int64]], limits: Limits, tokenizer: Any, ends: Sequence[int]
) -> list[Answer]:
    """Let a model go on from prompts.

    Args:
        model: a causal language model of transformers, or PEFT's around one, in evaluation mode.
        prompts: [tokens] int64 each, none empty; see `fitted` for those longer than the model's positions.
        limits: length, stop strings and sampling. Draws are keyed by (seed, prompt, how many equal prompts came
            before): several samples of a prompt that are asked for at once differ, and are the same in any batch.
        tokenizer: decodes, to find stop strings.
        ends: token ids that end an answer.

    Returns:
        For each prompt its answer: new tokens without the end token, whose text may reach beyond a stop string (see
        `new_text`).
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    earlier: Counter[str] = Counter()
    answers = []
    for whole in prompts:
        prompt = fitted(np.asarray(whole, dtype=np.int64), context, limits.max_new_tokens)
        key = hashlib.sha256(prompt.tobytes()).hexdigest()
        longest = limits.max_new_tokens if context is None else min(limits.max_new_tokens, context - len(prompt))
        answers.append(Answer(prompt, longest, f"{key}/{earlier[key]}", truncated=len(prompt) < len(whole)))
        earlier[key] += 1
    with torch.no_grad():
        if keeps_keys_and_values(model):
            AnswersInProgress(model, limits, tokenizer, ends).work_off(answers)
        else:
            for answer in answers:
                _answer_alone(model, answer, limits, tokenizer, ends)
    return answers


def fitted(prompt: NDArray[np.int64], context: int | None, max_new_tokens: int) -> NDArray[np.int64]:
    """The end of a prompt that leaves a model room for its answer.

    Args:
        prompt: [tokens] int64.
        context: how many positions the model has; None for no bound.
        max_new_tokens: longest answer.

    Returns:
        The last tokens; all of them where they fit. At most half the positions are kept free for the answer.
    """
    return prompt if context is None else prompt[-(context - min(max_new_tokens, context // 2)) :]


def new_text(tokenizer: Any, prompt: NDArray[np.int64], added: Sequence[int], stop: Sequence[str]) -> str:
    """The text that tokens add to a prompt, up to the first stop string.

    Args:
        tokenizer: decodes.
        prompt: [tokens] int64.
        added: new token ids.
        stop: stop strings.

    Returns:
        The text, with the white space it begins with, which tokenizers leave out at the beginning of a text.
    """
    before = prompt[-LEAD:].tolist()
    lead, whole = (tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (before, [*before, *added]))
    # Where characters are cut into several tokens, the lead may not be what the whole begins with.
    text = whole[len(lead) :] if whole.startswith(lead) else tokenizer.decode(added, skip_special_tokens=True)
    return cut(text, stop)


def cut(text: str, stop: Sequence[str]) -> str:
    """A text up to the first stop string.

    Args:
        text: of all new tokens.
        stop: stop strings.

    Returns:
        What comes before the first of them.
    """
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]


def keeps_keys_and_values(model: Any) -> bool:
    """Whether what a model keeps of a text is keys and values of its tokens, so that rows can be padded and exchanged.

    Args:
        model: of transformers or PEFT.

    Returns:
        False for recurrent states, chunked attention, and virtual tokens, which PEFT adds in its own `generate`.
    """
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return False
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = set(getattr(inner.config.get_text_config(), "layer_types", None) or [])
    return not getattr(inner, "_is_stateful", False) and kinds <= KEPT_WHOLE


def _answer_alone(model: Any, answer: Answer, limits: Limits, tokenizer: Any, ends: Sequence[int]) -> None:
    prompt = torch.from_numpy(answer.prompt)[None].to(next(model.parameters()).device)
    sampling = {"do_sample": True, "temperature": limits.temperature, "top_k": 0, "top_p": 1.0}
    stopping = {"stop_strings": list(limits.stop), "tokenizer": tokenizer} if limits.stop else {}
    with torch.random.fork_rng(devices=[prompt.device] if prompt.is_cuda else []), warnings.catch_warnings():
        # Of PEFT, where there are virtual tokens: it takes no positions from transformers, which counts them itself.
        warnings.filterwarnings("ignore", "Position ids are not supported")
        # transformers draws from torch's global generators only.
        torch.manual_seed(derive_seed(limits.seed, "answer", client=answer.address))
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=answer.longest,
            eos_token_id=list(ends) or None,
            pad_token_id=next(iter(ends), 0),
            **(sampling if limits.temperature else {"do_sample": False}),
            **stopping,
        )
    tokens: list[int] = output[0, prompt.shape[1] :].tolist()
    ended = bool(tokens) and tokens[-1] in ends
    stopped = ended or (bool(limits.stop) and any(stop in tokenizer.decode(tokens) for stop in limits.stop))
    answer.tokens, answer.ended = tokens[:-1] if ended else tokens, True
    answer.cut_off = len(tokens) >= answer.longest and not stopped
