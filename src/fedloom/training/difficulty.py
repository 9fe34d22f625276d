"""How hard a client's examples are, by one of several measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.randomness import numpy_generator
from fedloom.recipe.curriculum_schema import DifficultyColumn
from fedloom.training.fisher import fisher_traces, passes


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
    examples: ExampleSet,
    lanes: Lanes | None,
) -> NDArray[np.float64]:
    """Difficulties under an adapter, in passes over all examples.

    Args:
        difficulty: fisher or loss.
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        examples: a client's training examples.
        lanes: in which passes run side by side; None: one after another in this thread.

    Returns:
        fp64 [examples]; an example's does not depend on the others.
    """
    every = range(len(examples))
    if difficulty == "fisher":
        return fisher_traces(model, grouped, adapter, examples, every, lanes)
    return example_losses(model, grouped, adapter, examples, lanes)


def example_losses(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    examples: ExampleSet,
    lanes: Lanes | None,
) -> NDArray[np.float64]:
    """The mean loss of each example's labels under an adapter.

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        examples: which ones.
        lanes: in which passes run side by side; None: one after another in this thread.

    Returns:
        fp64 [examples], in nats.
    """

    # Whether gradients are kept is a thread's own matter, too.
    @torch.no_grad()
    def losses_of(members: range) -> NDArray[np.float64]:
        grouped.load([adapter], trainable=False)
        batch = pack_groups(grouped, [examples_at(examples, members)], share_prompts=False)
        losses = label_losses(model, grouped, batch).double().cpu().numpy()
        owners = batch.label_examples.cpu().numpy()
        counts = np.bincount(owners, minlength=len(members))
        return np.bincount(owners, losses, len(members)) / counts

    jobs = passes(examples.lengths, len(examples))
    return np.concatenate(list(map(losses_of, jobs)) if lanes is None else lanes.map_within(losses_of, jobs))
