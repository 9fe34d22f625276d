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
from fedloom.model.example_sets import examples_at
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.lanes import Lanes
from fedloom.model.packing import Example
from fedloom.training.example_passes import measured, passes

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
        views = grouped.split(_gradients(model, grouped, [adapter] * len(chosen), chosen).double().square_())
        sums = [view.flatten(1).sum(1) for name, view in views.items() if name not in grouped.head_names]
        return torch.stack(sums).sum(0).cpu().numpy()

    return measured(sets, traces_of, None if grouped.has_squares else _most(grouped), lanes)


def fisher_diagonal(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    examples: ExampleSet,
    indices: Sequence[int] | np.ndarray,
) -> Tensor:
    """The diagonal of the empirical Fisher information, mean over examples of their squared gradients.

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        examples: where the examples are.
        indices: [n] which of them; at least one.

    Returns:
        fp32 [parameters], in the flat order of `grouped`, those of a trained head included.
    """
    return fisher_diagonals(model, grouped, [adapter], [examples], [indices])[0]


def fisher_diagonals(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapters: Sequence[Mapping[str, Tensor]],
    examples: Sequence[ExampleSet],
    indices: Sequence[Sequence[int] | np.ndarray],
) -> Tensor:
    """`fisher_diagonal` of several adapters, each on examples of its own, which share passes.

    Args:
        model: the frozen base.
        grouped: where the adapters are put; what it holds is replaced.
        adapters: fp32 tensors of each.
        examples: for each adapter, where its examples are.
        indices: for each adapter which of them; at least one.

    Returns:
        fp32 [adapters, parameters]; an adapter's row does not depend on the others.
    """
    owners = [place for place, some in enumerate(indices) for _ in some]
    chosen = [one for place, some in enumerate(indices) for one in examples_at(examples[place], map(int, some))]
    totals = torch.zeros(len(adapters), grouped.size, dtype=torch.float64, device=grouped.device)
    for members in passes(np.array([len(one.tokens) for one in chosen]), _most(grouped)):
        own = [adapters[owners[place]] for place in members]
        gradients = _gradients(model, grouped, own, [chosen[place] for place in members])
        for place, row in zip(members, gradients, strict=True):
            totals[owners[place]] += row.double().square_()
    counts = torch.tensor([len(some) for some in indices], device=grouped.device)
    return (totals / counts[:, None]).float()


def _most(grouped: GroupedAdapter[Any]) -> int:
    """Examples of a pass whose gradients are all held."""
    return max(1, ENTRIES // grouped.size) if grouped.cohorts else 1


def _gradients(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapters: Sequence[Mapping[str, Tensor]],
    chosen: Sequence[Example],
) -> Tensor:
    """Each example's gradient of its mean loss under its adapter, fp32 [examples, parameters]."""
    grouped.load(adapters)
    grouped.backward(summed_means(model, grouped, [[example] for example in chosen]))
    return grouped.gradients


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
