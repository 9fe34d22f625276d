"""Looking into data and finished runs: what clients hold, how good an adapter is, what it answers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fedloom.arms import build_arms
from fedloom.beginning import check_same_base, check_same_start, fingerprints
from fedloom.checkpoint import load_checkpoint
from fedloom.data.conversation import Message
from fedloom.data.describe import describe, render
from fedloom.data.federated import reopen
from fedloom.data.label_tokens import tokenize_texts
from fedloom.data.labelled_text import LabelledText
from fedloom.data.templates import load_template
from fedloom.data.text_frame import read_pattern
from fedloom.data.tokenizing import end_tokens, tokenize_prompt
from fedloom.errors import UserError, unknown_name
from fedloom.model.adapters.registry import adapter_class
from fedloom.model.base import load_tokenizer, pick_device, quiet_libraries, read_weights
from fedloom.model.classes import classes_of
from fedloom.model.start import start_of
from fedloom.recipe import load_recipe
from fedloom.run_directory import ADAPTER, CHECKPOINTS, DATA, open_finished
from fedloom.session import open_session, prepare_data


def show_data(recipe: str | Path, overrides: Sequence[str]) -> None:
    """Print what each client of a recipe holds.

    Args:
        recipe: a YAML file or a shipped recipe's name.
        overrides: strings such as "data.max_tokens=256".
    """
    checked = load_recipe(recipe, overrides)
    with tempfile.TemporaryDirectory() as folder:
        data, _ = prepare_data(checked, Path(folder) / "data")
        Console().print(render(describe(data)))


def evaluate_run(directory: Path, split: str | None = None) -> dict[str, Any]:
    """Evaluate the adapter of a finished run once more.

    Args:
        directory: the run directory.
        split: test or validation; None: the recipe's.

    Returns:
        A result as in `metrics.json`.
    """
    folder, recipe = open_finished(directory)
    if split is not None:
        if split not in {"test", "validation"}:
            raise unknown_name("--split", split, ["test", "validation"])
        section = recipe.evaluation.model_copy(update={"split": split})
        recipe = recipe.model_copy(update={"evaluation": section})
    check_same_base(recipe, folder)
    if recipe.task.kind == "dpo":
        # What preferences are compared with.
        check_same_start(recipe, folder)
    elif start_of(recipe.model.adapter) is not None:
        # Where training started may be gone by now.
        adapter = recipe.model.adapter.model_copy(update={"start": None})
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"adapter": adapter})})
    session = open_session(recipe, folder)
    # As the run itself does: where clients keep a part of the adapter, each is tested with its own.
    federated, state = build_arms(session)[0], load_checkpoint(folder / CHECKPOINTS)
    rounds = state.stop["round"] if state is not None and state.stop else federated.rounds
    return federated.evaluate(session.grouped.read(folder / ADAPTER), rounds)


def generate_answer(directory: Path, prompt: str, max_new_tokens: int, with_adapter: bool) -> str:
    """Answer a prompt greedily, with the adapter as other tools load it.

    Args:
        directory: the run directory.
        prompt: the user's text.
        max_new_tokens: longest answer.
        with_adapter: False answers with the untuned base.

    Returns:
        The answer's text.

    Raises:
        UserError: for an empty prompt, a folder without a readable adapter, or a run that has learnt no answers.
    """
    if not prompt.strip():
        raise UserError("PROMPT: is empty")
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens: {max_new_tokens} is not a positive number")
    folder, recipe = open_finished(directory)
    if recipe.task.kind == "classification":
        raise UserError(
            f"{folder}: is a classification, which answers with a class and not with text",
            hint="`fedloom classify` tells a text's class",
        )
    quiet_libraries()
    check_same_base(recipe, folder)
    tokenizer = load_tokenizer(recipe.model)
    template = load_template(recipe.data.template, tokenizer)
    device = pick_device(recipe.runtime.device)
    base = read_weights(recipe.model, device)
    if recipe.model.quantization is None:
        base.to(device)
    model = _with_adapter(base, folder / ADAPTER, recipe.model.adapter.kind) if with_adapter else base
    tokens = tokenize_prompt(template.prompt_segments([Message("user", prompt)]), tokenizer)
    ends = end_tokens(template, tokenizer)
    own = base.generation_config.eos_token_id
    ends += [token for token in (own if isinstance(own, list) else [own]) if token is not None and token not in ends]
    inputs = torch.from_numpy(tokens)[None].to(device)
    with torch.no_grad(), warnings.catch_warnings():
        # Of PEFT, where there are virtual tokens: it takes no positions from transformers, which counts them itself.
        warnings.filterwarnings("ignore", "Position ids are not supported")
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), 0),
        )
    answer: str = tokenizer.decode(output[0, inputs.shape[1] :], skip_special_tokens=True)
    return answer.strip()


def classify_text(directory: Path, text: str, pair: str | None) -> str:
    """Tell which class a text belongs to, with the adapter as other tools load it.

    Args:
        directory: the run directory, of a classification.
        text: the text, or the first of a pair.
        pair: the second of a pair; None where the run's records are no pairs.

    Returns:
        The name of the most likely class.

    Raises:
        UserError: for an empty text, another task's run, a pair where there is none, or a folder without a readable
            adapter.
    """
    for name, given in (("TEXT", text), ("--pair", pair)):
        if given is not None and not given.strip():
            raise UserError(f"{name}: is empty")
    folder, recipe = open_finished(directory)
    if recipe.task.head is None:
        raise UserError(f"{directory}: its task is {recipe.task.kind}, which has no classes: fedloom generate answers")
    paired = any(fields.pair is not None for fields in recipe.data.fields_in_use().values())
    if paired != (pair is not None):
        raise UserError(
            f"--pair: this run classifies {'pairs of texts' if paired else 'single texts'}",
            hint="give the second text with --pair" if paired else "leave it out",
        )
    quiet_libraries()
    check_same_base(recipe, folder)
    tokenizer, device = load_tokenizer(recipe.model), pick_device(recipe.runtime.device)
    data = reopen(folder / DATA, fingerprints(folder)["data"])
    classes = classes_of(recipe.task, data.labels, data.label_words)
    pattern = None if recipe.task.pattern is None else read_pattern(recipe.task.pattern, tokenizer)
    read = tokenize_texts([LabelledText(text, pair, "", "")], tokenizer, recipe.data.max_tokens, pattern)
    base = read_weights(recipe.model, device, classes)
    if recipe.model.quantization is None:
        base.to(device)
    model = _with_adapter(base, folder / ADAPTER, recipe.model.adapter.kind)
    tokens = torch.from_numpy(read.tokens)[None].to(device)
    arguments = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if read.token_types is not None:
        arguments["token_type_ids"] = torch.from_numpy(read.token_types)[None].to(device, torch.int64)
    with torch.no_grad():
        logits = model.eval()(**arguments).logits[0]
    if read.places is not None:
        # Virtual tokens come first.
        logits = logits[len(logits) - tokens.shape[1] + int(read.places[0])][data.label_words]
    return data.labels[int(logits.argmax())]


def _with_adapter(base: Any, adapter: Path, kind: str) -> Any:
    try:
        return adapter_class(kind).opened(base, adapter)
    except Exception as error:  # PEFT's, safetensors' and JSON's errors have no common class
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{adapter}: not a readable adapter: {lines[0][:200]}") from None
