"""Prefix tuning (arXiv 2101.00190): trained keys and values before those of the text, in every layer.

They are trained themselves, without the network that the paper makes them with: PEFT's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.adapters.virtual_tokens import STORED, VirtualTokens
from fedloom.model.decoder_layer import LabelRows
from fedloom.model.grouped_adapter import Adapter, Layout
from fedloom.model.key_value_prefix import KeyValuePrefix, KeyValueRecorder
from fedloom.model.packing import Example, PackedBatch, pack
from fedloom.randomness import torch_generator
from fedloom.recipe.adapter_schema import PrefixTuningConfig


class PrefixTuning(VirtualTokens[PrefixTuningConfig]):
    """Prefix tuning on one model."""

    def __init__(self, model: PreTrainedModel, config: PrefixTuningConfig) -> None:
        super().__init__(model, config)
        self._model = model

    @classmethod
    def layout(cls, model: PreTrainedModel, config: PrefixTuningConfig) -> Layout:
        """See `GroupedAdapter`: for each virtual token keys, then values, of each layer in turn."""
        heads, dim = _key_heads(model)
        layers = model.config.get_text_config().num_hidden_layers
        return Layout({STORED: (config.virtual_tokens, layers * 2 * heads * dim)}, [])

    @torch.no_grad()
    def own_initial(self, seed: int) -> Adapter:
        """The keys and values of tokens drawn from the vocabulary, as the base computes them.

        The paper (section 7.4) begins with those of words; to draw them from all of the vocabulary is our choice.

        Args:
            seed: the recipe's.

        Returns:
            fp32 [virtual tokens, layers * 2 * key heads * dim].
        """
        config = self._model.config.get_text_config()
        heads, dim = _key_heads(self._model)
        generator = torch_generator(seed, "virtual tokens")
        tokens = torch.randint(config.vocab_size, (self.virtual_tokens,), generator=generator).numpy()
        batch = pack([[Example(tokens, np.zeros(len(tokens), dtype=bool))]], self.device)
        recorder = KeyValueRecorder(len(tokens), 2 * heads * dim)
        everything = LabelRows(torch.arange(batch.input_ids.shape[1], device=self.device), batch.group_starts)
        self._model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            packed_layout=batch.layout,
            packed_labels=everything,
            packed_prefix=recorder,
            use_cache=False,
        )
        return {STORED: torch.cat([recorder.layers[layer] for layer in range(config.num_hidden_layers)], 1).cpu()}

    def inputs(self, model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
        """See `GroupedAdapter`: tokens, and each group's own keys and values for the places before them."""
        given = super().inputs(model, batch)
        if not self.places:
            return given
        layers = model.config.get_text_config().num_hidden_layers
        own = self.parameters[STORED].flatten(0, 1).index_select(0, batch.virtual_sources)
        by_layer = own.view(len(own), layers, -1).unbind(1)
        return {**given, "packed_prefix": KeyValuePrefix(batch.virtual_rows, by_layer)}

    def peft_config(self, model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> peft.PeftConfig:
        """See `PeftFormat`; the sizes are those of keys, which several query heads may share."""
        heads, dim = _key_heads(model)
        sizes = {**self.peft_sizes(model), "token_dim": heads * dim, "num_attention_heads": heads}
        return peft.PrefixTuningConfig(
            num_virtual_tokens=self.virtual_tokens, encoder_hidden_size=heads * dim, prefix_projection=False, **sizes
        )


def _key_heads(model: PreTrainedModel) -> tuple[int, int]:
    """The number of key heads of a layer, and the size of one."""
    config: Any = model.config.get_text_config()
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads), int(dim)
