"""How many clients fit into one pass: measured bytes per token against a memory budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.checkpointing import decoder_layers
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.model.packing import Example
from fedloom.recipe.schema import RuntimeConfig
from fedloom.training.cohort import CPU_TOKENS

GIB = 1 << 30
# Share of the free memory a run may take where the recipe names no budget.
SHARE_OF_FREE = 0.5
# Beyond what the backward pass keeps, it needs room for gradients of activations; 1.5 was measured to be ample.
BACKWARD_FACTOR = 1.5
# Adapter values, gradients, two moments, and copies in the compute format.
ADAPTER_COPIES = 6
# And where clients tell their Fisher information: a step's gradients put together, and squares.
FISHER_COPIES = 2
PROBE_TOKENS = 256


_MEASURED: WeakKeyDictionary[GroupedAdapter[Any], tuple[float, float]] = WeakKeyDictionary()


class CohortSizer:
    """Deals a round's clients to cohorts; the result of training never depends on it.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.
        config: the recipe's runtime section.
        lanes: cohorts trained side by side, which share the memory budget.
        fisher: whether clients tell their Fisher information.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grouped: GroupedAdapter[Any],
        config: RuntimeConfig,
        lanes: int,
        fisher: bool = False,
    ) -> None:
        self.cohort = config.cohort
        self.checkpointing = config.activation_checkpointing
        self.grouped = grouped
        self.lanes = lanes
        self.adapter_bytes = (ADAPTER_COPIES + FISHER_COPIES * fisher) * 4 * grouped.size
        if self.cohort == "auto":
            self.budget = memory_budget(config, grouped.device) / lanes
            # Once for each loaded model: many runs may work over it, one after another.
            if grouped not in _MEASURED:
                _MEASURED[grouped] = bytes_per_token(model, grouped), recomputed_bytes_per_token(model, grouped)
            self.kept_bytes, self.recomputed_bytes = (BACKWARD_FACTOR * size for size in _MEASURED[grouped])
            self.longest_pass = CPU_TOKENS if grouped.device.type == "cpu" else math.inf

    def bytes_at_work(self, clients: int, tokens: int) -> float:
        """The memory that clients of a pass take while they train.

        Args:
            clients: in the pass.
            tokens: in the pass.

        Returns:
            Bytes, beside those of the base model; for a `cohort: auto`, which measures them.
        """
        token_bytes = self.recomputed_bytes if self.grouped.recompute else self.kept_bytes
        return tokens * token_bytes + clients * self.adapter_bytes

    def cohorts(self, tokens: Sequence[int]) -> list[range]:
        """Cut a round's clients, in their order, into cohorts.

        Args:
            tokens: of each client's longest batch.

        Returns:
            Ranges of positions: of the recipe's size, or, for `auto`, as many clients as memory holds and, on a CPU,
            as keep all lanes busy with passes of a useful length; single clients of a kind of adapter that has no
            cohorts. Sets `grouped.recompute` for them.
        """
        self.grouped.recompute = self.checkpointing is True
        if self.cohort != "auto":
            size = self.cohort
            return [range(first, min(first + size, len(tokens))) for first in range(0, len(tokens), size)]
        tokens = [length + self.grouped.virtual_tokens for length in tokens]
        if self.checkpointing == "auto":
            self.grouped.recompute = self.bytes_at_work(1, max(tokens)) > self.budget
        if not self.grouped.cohorts:
            return [range(place, place + 1) for place in range(len(tokens))]
        target = min(self.longest_pass, sum(tokens) / self.lanes)
        cohorts = [range(0, 1)]
        length = tokens[0]
        for place in range(1, len(tokens)):
            members, length = place - cohorts[-1].start + 1, length + tokens[place]
            # A cohort ends where it comes nearest to the target.
            if length - tokens[place] / 2 > target or self.bytes_at_work(members, length) > self.budget:
                cohorts.append(range(place, place + 1))
                length = tokens[place]
            else:
                cohorts[-1] = range(cohorts[-1].start, place + 1)
        return cohorts


def bytes_per_token(model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> float:
    """Activation memory a token needs for the backward pass, measured on one short sequence.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.

    Returns:
        Bytes each token, every position labelled (the upper bound); of a classifier, one.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        # Not the tensor itself: an operation that keeps its own result would hold itself, and never be freed.
        return tensor.detach()

    positions = int(getattr(model.config, "max_position_embeddings", PROBE_TOKENS))
    before = grouped.virtual_tokens + (0 if grouped.reader is None else grouped.reader.first_position)
    length = min(PROBE_TOKENS, positions - before)
    label = None if grouped.reader is None else 0
    example = Example(np.zeros(length, dtype=np.int64), np.ones(length, dtype=bool), label=label)
    grouped.load([{name: torch.zeros(shape) for name, shape in grouped.shapes.items()}])
    # Now, as full fine-tuning loads the weights themselves.
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    batch = pack_groups(grouped, [[example]])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = label_losses(model, grouped, batch).sum()
        size = sum(nbytes for pointer, nbytes in kept.items() if pointer not in weights)
    del loss
    return size / batch.tokens


def recomputed_bytes_per_token(model: PreTrainedModel, grouped: GroupedAdapter[Any]) -> float:
    """As `bytes_per_token`, with activation checkpointing: the inputs of all layers, and one layer at work.

    Args:
        model: the frozen base.
        grouped: its grouped adapters.

    Returns:
        Bytes each token.
    """
    layers = max(1, len(decoder_layers(model)))
    grouped.recompute = True
    inputs = bytes_per_token(model, grouped)
    grouped.recompute = False
    return inputs + bytes_per_token(model, grouped) / layers


def memory_budget(config: RuntimeConfig, device: torch.device) -> float:
    """The memory that training may take.

    Args:
        config: the recipe's runtime section.
        device: where the base is.

    Returns:
        Bytes.
    """
    if config.memory_gb is not None:
        return config.memory_gb * GIB
    if device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    return SHARE_OF_FREE * psutil.virtual_memory().available
