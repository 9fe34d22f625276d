"""How hard a client's examples are, by one of several measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.packing import Example
from fedloom.randomness import numpy_generator
from fedloom.recipe.curriculum_schema import DifficultyColumn
from fedloom.training.example_passes import measured
from fedloom.training.fisher import fisher_traces


def known_difficulties(
    difficulty: str | DifficultyColumn, examples: ExampleSet, seed: int, client: str
) -> NDArray[np.float64] | None:
    """Difficulties that no model is needed for.

    Args:
        difficulty: of the recipe.
        examples: a client's training examples.
        seed: the recipe's.
        client: its name.

    Returns:
        fp64 [examples]; None for a difficulty that is measured.
    """
    if isinstance(difficulty, DifficultyColumn):
        return examples.difficulties
    if difficulty == "length":
        return examples.lengths.astype(np.float64)
    if difficulty == "random":
        return numpy_generator(seed, "curriculum", client=client).permutation(len(examples)).astype(np.float64)
    return None


def measured_difficulties(
    difficulty: str | DifficultyColumn,
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    sets: Sequence[ExampleSet],
    lanes: Lanes | None,
) -> list[NDArray[np.float64]]:
    """Difficulties under an adapter, in passes over all examples.

    Args:
        difficulty: fisher or loss.
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        sets: the training examples of each client; all of them share passes.
        lanes: in which passes run side by side; None: one after another in this thread.

    Returns:
        fp64 [examples] for each client; an example's does not depend on the others.
    """
    if difficulty == "fisher":
        return fisher_traces(model, grouped, adapter, sets, lanes)
    return example_losses(model, grouped, adapter, sets, lanes)


def example_losses(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    sets: Sequence[ExampleSet],
    lanes: Lanes | None,
) -> list[NDArray[np.float64]]:
    """The mean loss of each example's labels under an adapter.

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        sets: the examples of each client; all of them share passes.
        lanes: in which passes run side by side; None: one after another in this thread.

    Returns:
        fp64 [examples] for each client, in nats.
    """

    # Whether gradients are kept is a thread's own matter, too.
    @torch.no_grad()
    def losses_of(chosen: list[Example]) -> NDArray[np.float64]:
        grouped.load([adapter], trainable=False)
        batch = pack_groups(grouped, [chosen], share_prompts=False)
        losses = label_losses(model, grouped, batch).double().cpu().numpy()
        owners = batch.label_examples.cpu().numpy()
        counts = np.bincount(owners, minlength=len(chosen))
        return np.bincount(owners, losses, len(chosen)) / counts

    return measured(sets, losses_of, lanes=lanes)
