"""Prompt tuning (arXiv 2104.08691): trained vectors before the embedded text, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.adapters.virtual_tokens import STORED, EmbeddedTokens
from fedloom.model.grouped_adapter import Adapter, Layout
from fedloom.model.packing import PackedBatch
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import PromptTuningConfig


class PromptTuning(EmbeddedTokens[PromptTuningConfig]):
    """Prompt tuning on one model."""

    def __init__(self, model: PreTrainedModel, config: PromptTuningConfig) -> None:
        super().__init__(model, config)
        self._embedding: Any = model.get_input_embeddings()

    @classmethod
    def layout(cls, model: PreTrainedModel, config: PromptTuningConfig) -> Layout:
        """See `GroupedAdapter`: one vector for each virtual token."""
        return Layout({STORED: (config.virtual_tokens, cls.embedding_size(model))}, [])

    @torch.no_grad()
    def own_initial(self, seed: int) -> Adapter:
        """Embeddings of tokens drawn from the vocabulary.

        The paper's "sampled vocabulary", but of the whole vocabulary rather than its most common words: our choice.

        Args:
            seed: the recipe's.

        Returns:
            fp32 [virtual tokens, size].
        """
        vocabulary = len(self._embedding.weight)
        generator = torch_generator(seed, "virtual tokens")
        tokens = torch.randint(vocabulary, (self.virtual_tokens,), generator=generator)
        return {STORED: self._embedding(tokens.to(self.device)).float().cpu()}

    def vectors(self, batch: PackedBatch) -> Tensor:
        """See `EmbeddedTokens`: what is trained itself."""
        return self.parameters[STORED]

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`."""
        return peft.PromptTuningConfig(num_virtual_tokens=self.virtual_tokens, **self.peft_sizes(model))
