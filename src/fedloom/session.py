"""What a run works with: tokenizer, data, base model, adapters, runtime, evaluator; mistakes come before weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from fedloom import __version__
from fedloom.data.federated import FederatedData, prepare
from fedloom.data.shards import ExampleSet
from fedloom.evaluation.evaluator import Evaluator, check_examples
from fedloom.model.base import check_model, load_base, load_tokenizer, pick_device, quiet_libraries
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.lanes import Lanes
from fedloom.recipe import Recipe
from fedloom.run_directory import CLIENTS, DATA
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.runtime.process import keep_freed_memory, return_freed_memory, usable_threads

POOLED = "pooled"


@dataclass
class Session:
    """Everything a run's loop calls on."""

    recipe: Recipe
    data: FederatedData
    model: PreTrainedModel
    lora: GroupedLora
    store: ClientStore
    runtime: InProcessRuntime
    evaluator: Evaluator


def prepare_data(recipe: Recipe, directory: Path) -> tuple[FederatedData, Any]:
    """Tokenise the clients' data (or reopen it) after checking the model's settings.

    Args:
        recipe: the run.
        directory: where the shards go.

    Returns:
        The data and the tokenizer.

    Raises:
        UserError: for any mistake in the recipe's model or data section.
    """
    quiet_libraries()
    pick_device(recipe.runtime.device)
    check_model(recipe.model)
    tokenizer = load_tokenizer(recipe.model)
    return prepare(recipe, tokenizer, directory), tokenizer


def open_model(recipe: Recipe) -> tuple[PreTrainedModel, GroupedLora]:
    """Load the base model and wrap its target layers.

    Args:
        recipe: the run.

    Returns:
        The frozen base and its adapters.
    """
    keep_freed_memory()
    model = load_base(recipe.model, pick_device(recipe.runtime.device))
    lora = GroupedLora(model, recipe.model.adapter)
    use_own_layers(model, lora)
    return model, lora


def open_session(recipe: Recipe, directory: Path) -> Session:
    """Bring together what a run works with.

    Args:
        recipe: the run.
        directory: the run directory.

    Returns:
        The session.
    """
    data, _ = prepare_data(recipe, directory / DATA)
    return_freed_memory()
    check_examples(data, recipe.evaluation.split)
    model, lora = open_model(recipe)
    store = ClientStore(directory / CLIENTS)
    lanes = Lanes(usable_threads(recipe.runtime.threads), lora.device)

    def train_examples(client: str) -> ExampleSet:
        if client == POOLED and POOLED not in data.clients:
            return data.all_examples("train")
        return data.examples(client, "train")

    return Session(
        recipe,
        data,
        model,
        lora,
        store,
        InProcessRuntime(model, lora, recipe, train_examples, store, lanes),
        Evaluator(model, lora, recipe, data, lanes),
    )


def describe_session(session: Session) -> dict[str, Any]:
    """What a reader of the event log wants to know about a run before its first round.

    Args:
        session: what the run works with.

    Returns:
        Names, sizes, device and versions.
    """
    model = session.model
    return {
        "name": session.recipe.name,
        "fedloom": __version__,
        "clients": len(session.data.clients),
        "examples": session.data.totals(),
        "parameters": {"base": model.num_parameters(), "trainable": session.lora.size},
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
