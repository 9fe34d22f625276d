"""How many clients fit into one pass: measured bytes per token against a memory budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.forward import label_logits, label_losses
from fedloom.model.grouped_lora import GroupedLora
from fedloom.model.packing import Example, pack
from fedloom.recipe.schema import RuntimeConfig
from fedloom.training.cohort import ClientWork

GIB = 1 << 30
# Share of the free memory a run may take where the recipe names no budget.
SHARE_OF_FREE = 0.5
# Beyond what the backward pass keeps, it needs room for gradients of activations; 1.5 was measured to be ample.
BACKWARD_FACTOR = 1.5
# A pass longer than this gains nothing on a CPU: products are large enough, and activations leave the caches.
CPU_TOKENS = 8192
# Adapter values, gradients, two moments, and copies in the compute format.
ADAPTER_COPIES = 6
PROBE_TOKENS = 256


class CohortSizer:
    """Decides whether a further client fits into a cohort; the result of training never depends on it.

    Args:
        model: the frozen base.
        lora: its grouped adapters.
        config: the recipe's runtime section.
    """

    def __init__(self, model: PreTrainedModel, lora: GroupedLora, config: RuntimeConfig) -> None:
        self.cohort = config.cohort
        self.adapter_bytes = ADAPTER_COPIES * 4 * lora.size
        if self.cohort == "auto":
            self.budget = _budget(config, lora.device)
            self.token_bytes = BACKWARD_FACTOR * bytes_per_token(model, lora)
            self.longest_pass = CPU_TOKENS if lora.device.type == "cpu" else None

    def fits(self, work: Sequence[ClientWork]) -> bool:
        """Whether these clients may train in one pass.

        Args:
            work: the clients so far and the one to add.

        Returns:
            True while cohort size, memory budget and, on a CPU, the useful length of a pass allow it.
        """
        if self.cohort != "auto":
            return len(work) <= self.cohort
        tokens = sum(_longest_batch(item) for item in work)
        if self.longest_pass is not None and tokens > self.longest_pass:
            return False
        return tokens * self.token_bytes + len(work) * self.adapter_bytes <= self.budget


def bytes_per_token(model: PreTrainedModel, lora: GroupedLora) -> float:
    """Activation memory a token needs for the backward pass, measured on one short sequence.

    Args:
        model: the frozen base.
        lora: its grouped adapters.

    Returns:
        Bytes each token, every position labelled (the upper bound).
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    length = min(PROBE_TOKENS, int(getattr(model.config, "max_position_embeddings", PROBE_TOKENS)))
    example = Example(np.zeros(length, dtype=np.int64), np.ones(length, dtype=bool))
    lora.load([{name: torch.zeros(shape) for name, shape in lora.shapes.items()}])
    batch = pack([[example]], lora.device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = label_losses(label_logits(model, lora, batch), batch.labels).sum()
        size = sum(nbytes for pointer, nbytes in kept.items() if pointer not in weights)
    del loss
    return size / length


def _longest_batch(work: ClientWork) -> int:
    lengths = work.examples.lengths
    return max(int(lengths[batch].sum()) for batch in work.batches)


def _budget(config: RuntimeConfig, device: torch.device) -> float:
    if config.memory_gb is not None:
        return config.memory_gb * GIB
    if device.type == "cuda":
        return SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]
    return SHARE_OF_FREE * psutil.virtual_memory().available
