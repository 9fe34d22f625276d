"""P-tuning (arXiv 2103.10385): vectors before the embedded text that a trained network makes of trained embeddings.

The network is PEFT's: linear, ReLU, linear, ReLU, linear, applied to each virtual token by itself. After training it is
not needed any more: what others read is what it has made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import peft
import torch
from torch import Tensor
from torch.nn.functional import linear, relu
from transformers import PreTrainedModel

from fedloom.model.adapters.virtual_tokens import STORED, EmbeddedTokens
from fedloom.model.grouped_adapter import Adapter, Layout, Shapes
from fedloom.model.packing import PackedBatch
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import PTuningConfig

EMBEDDING = "prompt_encoder.embedding.weight"


class PTuning(EmbeddedTokens[PTuningConfig]):
    """P-tuning on one model."""

    @classmethod
    def layout(cls, model: PreTrainedModel, config: PTuningConfig) -> Layout:
        """See `GroupedAdapter`: an embedding for each virtual token, and the network's weights; PEFT's names."""
        size, hidden = cls.embedding_size(model), config.hidden_size
        shapes: Shapes = {EMBEDDING: (config.virtual_tokens, size)}
        for place, (inputs, outputs) in enumerate(pairwise([size, hidden, hidden, size])):
            # Numbered as PEFT's layers, between which activations count.
            shapes[f"prompt_encoder.mlp_head.{2 * place}.weight"] = (outputs, inputs)
            shapes[f"prompt_encoder.mlp_head.{2 * place}.bias"] = (outputs,)
        return Layout(shapes, [])

    def own_initial(self, seed: int) -> Adapter:
        """Drawn as in PEFT: embeddings normal, a layer's weights and biases uniform up to 1 / sqrt(inputs).

        Args:
            seed: the recipe's.

        Returns:
            fp32 tensors.
        """
        adapter: Adapter = {}
        for name, shape in self.own_shapes.items():
            generator = torch_generator(seed, f"adapter {name}")
            if name == EMBEDDING:
                adapter[name] = torch.randn(shape, generator=generator)
            else:
                bound = 1 / math.sqrt(self.shapes[name.replace(".bias", ".weight")][1])
                adapter[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        return adapter

    def vectors(self, batch: PackedBatch) -> Tensor:
        """See `EmbeddedTokens`: each group's network at work, by itself, so that no group's result is another's."""
        nothing = torch.zeros(self.shapes[EMBEDDING], device=self.device)
        parts = [self.parameters[name].unbind() for name in self.own_shapes]
        made = [
            nothing if first == last else encoded(*(part[group] for part in parts))
            for group, (first, last) in enumerate(pairwise(batch.group_starts))
        ]
        return torch.stack(made)

    def exported(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """See `PeftFormat`: what the network makes, which is all that PEFT reads, and what it makes it from."""
        trained = super().exported(adapter)
        return {STORED: encoded(*trained.values()), **trained}

    def stored_shapes(self, tensors: Mapping[str, Tensor]) -> Shapes:
        """See `PeftFormat`."""
        return {STORED: self.shapes[EMBEDDING], **self.own_shapes}

    def imported(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """See `PeftFormat`."""
        return {name: tensors[name] for name in self.own_shapes}

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`."""
        return peft.PromptEncoderConfig(
            num_virtual_tokens=self.virtual_tokens,
            encoder_hidden_size=self.config.hidden_size,
            **self.peft_sizes(model),
        )


def encoded(embedding: Tensor, *layers: Tensor) -> Tensor:
    """What P-tuning's network makes of embeddings.

    Args:
        embedding: [virtual tokens, size].
        layers: weight [outputs, inputs] and bias [outputs] of three linear layers in turn.

    Returns:
        [virtual tokens, size].
    """
    first, first_bias, second, second_bias, third, third_bias = layers
    hidden = relu(linear(relu(linear(embedding, first, first_bias)), second, second_bias))
    return linear(hidden, third, third_bias)
