"""Fisher information of an adapter: how steeply each example's log-probability changes with each of its parameters.

The empirical Fisher information of one example is the square of its own gradient, so gradients have to be had example
by example: the square of a batch's mean gradient is something else. Every example is a group of its own here, and a
pass over many groups keeps their gradients apart.
"""

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
from fedloom.training.example_passes import measured

# Entries of all gradients of a pass, where they are held: 64 MiB of them.
ENTRIES = 1 << 24


def fisher_traces(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    sets: Sequence[ExampleSet],
    lanes: Lanes | None = None,
) -> list[NDArray[np.float64]]:
    """The trace of each example's empirical Fisher information, the difficulty of FibecFed (arXiv 2410.00131).

    d_i = sum_p (d log p(y_i | s_i) / d P_p)^2 over the adapter's parameters, those of a trained head left out. Of a
    response log p is the mean over its labels, so that length is not the difficulty (our choice).

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        sets: the examples of each client; all of them share passes.
        lanes: in which passes run side by side; None: one after another in this thread.

    Returns:
        fp64 [examples] for each client, none negative; an example's does not depend on the others.
    """

    def traces_of(chosen: list[Example]) -> NDArray[np.float64]:
        if grouped.has_squares:
            squares = grouped.load_squares(adapter, len(chosen))
            loss = summed_means(model, grouped, [[example] for example in chosen])
            return torch.autograd.grad(loss, squares)[0].cpu().numpy()
        grouped.load([adapter] * len(chosen))
        grouped.backward(summed_means(model, grouped, [[example] for example in chosen]))
        views = grouped.split(grouped.gradients.double().square_())
        sums = [view.flatten(1).sum(1) for name, view in views.items() if name not in grouped.head_names]
        return torch.stack(sums).sum(0).cpu().numpy()

    return measured(sets, traces_of, None if grouped.has_squares else gradients_held(grouped), lanes)


def gradients_held(grouped: GroupedAdapter[Any]) -> int:
    """Groups of a pass, at least one, whose gradients are all held."""
    return max(1, ENTRIES // grouped.size) if grouped.cohorts else 1


def summed_means(model: PreTrainedModel, grouped: GroupedAdapter[Any], groups: Sequence[Sequence[Example]]) -> Tensor:
    """The sum over examples of the mean loss of an example's labels, under what is loaded.

    Args:
        model: the frozen base.
        grouped: the adapters.
        groups: for each group its examples.

    Returns:
        A scalar in nats, to be differentiated.
    """
    batch = pack_groups(grouped, groups, share_prompts=False)
    losses = label_losses(model, grouped, batch)
    counts = torch.bincount(batch.label_examples).to(losses.dtype)
    return (losses / counts[batch.label_examples]).sum()
