"""A hash of everything that decides what is stored, so that stored shards are reused exactly when equal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedloom.data.allocation import effective_data
from fedloom.data.difficulty_column import difficulty_column
from fedloom.data.shard_files import FORMAT_VERSION
from fedloom.data.sources import content_digest, locate
from fedloom.recipe.preference_schema import PREFERENCE_OPTIONS
from fedloom.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def data_fingerprint(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a recipe's data and task sections, seed, sources' contents, difficulty column, template and tokenizer.

    Args:
        recipe: the recipe.
        tokenizer: of the base model.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        UserError: where a source is missing.
    """
    data = effective_data(recipe.data)
    parts: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "data": data.model_dump(mode="json"),
        # Of preferences the loss and its numbers change nothing that is stored.
        "task": recipe.task.model_dump(mode="json", exclude=set(PREFERENCE_OPTIONS)),
        "seed": recipe.seed,
        "source": content_digest(locate(data.source), recipe.seed),
        "tokenizer": _tokenizer_state(tokenizer),
    }
    if data.global_test is not None and data.global_test.source is not None:
        key = "data.global_test.source"
        parts["global_test"] = content_digest(locate(data.global_test.source, key), recipe.seed, key)
    if recipe.task.pairs_are_split:
        parts["pairs"] = "split"
    column = difficulty_column(recipe)
    if column is not None:
        parts["difficulty"] = column
    template = Path(data.template).expanduser()
    if template.is_file():
        parts["template"] = hashlib.sha256(template.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.sep_token, tokenizer.mask_token)
    state: dict[str, Any] = {
        "vocabulary": tokenizer.get_vocab(),
        "chat_template": tokenizer.chat_template,
        "special": [str(token) for token in special],
        "inputs": tokenizer.model_input_names,
        "class": type(tokenizer).__name__,
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # Set by whoever called the tokenizer last; neither is used here.
        state["rules"] = {name: rules[name] for name in rules if name not in {"truncation", "padding"}}
    return state
