"""What the kinds of virtual tokens have in common: places before the text of every example that belong to no text.

Prompt tuning and P-tuning put trained vectors there in place of embedded tokens, prefix tuning trained keys and values
in every layer. Every client of a pass has its own; they lie in a packed batch once for each client, not once for each
example (see `packing`). Unlike other kinds, a fresh adapter is not the base model: that has no virtual tokens at all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.grouped_adapter import Adapter
from fedloom.model.packing import PackedBatch
from fedloom.model.peft_format import PeftFormat
from fedloom.recipe.adapter_schema import VirtualTokensConfig

# PEFT's name of what it stores, whatever it was computed from.
STORED = "prompt_embeddings"
VirtualConfig = TypeVar("VirtualConfig", bound=VirtualTokensConfig)


class VirtualTokens(PeftFormat[VirtualConfig]):
    """Virtual tokens on one model, whose modules stay as they are."""

    # PEFT keeps no module of its own between itself and the model.
    head_prefix = "base_model."
    # No layer has anything of an adapter within.
    fits_own_layers = True

    def __init__(self, model: PreTrainedModel, config: VirtualConfig) -> None:
        super().__init__(model, config)
        self.virtual_tokens = config.virtual_tokens

    @property
    def places(self) -> int:
        """See `GroupedAdapter`: none for the untuned base."""
        return self.virtual_tokens if self.own_shapes.keys() <= self.parameters.keys() else 0

    def untuned(self, fresh: Adapter) -> Adapter:
        """See `GroupedAdapter`: no tensors but those of a classification head."""
        return {name: fresh[name] for name in self.head_shapes}

    def load(self, adapters: Sequence[Mapping[str, Tensor]], trainable: bool = True) -> None:
        """See `GroupedAdapter`; without the virtual tokens, the untuned base."""
        if all(self.own_shapes.keys() <= adapter.keys() for adapter in adapters):
            super().load(adapters, trainable)
            return
        nothing = {name: torch.zeros(shape) for name, shape in self.own_shapes.items()}
        super().load([nothing | dict(adapter) for adapter in adapters], trainable)
        self._loaded.parameters = {name: self.parameters[name] for name in self.head_shapes}

    @staticmethod
    def peft_sizes(model: PreTrainedModel) -> dict[str, Any]:
        """What PEFT notes of the base model.

        Args:
            model: the base.

        Returns:
            Arguments of PEFT's configs.
        """
        config = model.config.get_text_config()
        return {
            "token_dim": config.hidden_size,
            "num_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_transformer_submodules": 1,
        }


class EmbeddedTokens(VirtualTokens[VirtualConfig]):
    """Vectors in place of embedded tokens."""

    @abstractmethod
    def vectors(self, batch: PackedBatch) -> Tensor:
        """What the loaded adapters put at the places of virtual tokens.

        Args:
            batch: the batch at work.

        Returns:
            fp32 [groups, virtual tokens, size]; anything for groups without tokens.
        """

    def inputs(self, model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
        """See `GroupedAdapter`: embedded tokens, each group's own vectors among them."""
        if not self.places:
            return super().inputs(model, batch)
        embedded: Tensor = model.get_input_embeddings()(batch.input_ids)[0]
        if self.own_layers:
            # They take fp32: what is trained is not rounded to the base's format.
            embedded = embedded.float()
        own = self.vectors(batch).flatten(0, 1).index_select(0, batch.virtual_sources)
        return {"inputs_embeds": embedded.index_copy(0, batch.virtual_rows, own.to(embedded.dtype))[None]}

    @property
    def virtual_apart(self) -> bool:
        """See `GroupedAdapter`: where tokens see what follows them, virtual ones are not the same before every text."""
        return self.reader is not None and not self.reader.causal

    @staticmethod
    def embedding_size(model: PreTrainedModel) -> int:
        """The size of an embedded token."""
        embedding: Any = model.get_input_embeddings()
        return int(embedding.weight.shape[1])
