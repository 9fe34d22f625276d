"""A look into a model at work: what enters its lowest layer, which may be changed, and what leaves chosen layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.checkpointing import decoder_layers
from fedloom.model.grouped_adapter import GroupedAdapter


class LayerProbe(threading.local):
    """What one thread sees and changes; passes may run side by side over one model."""

    def __init__(self) -> None:
        # Given the embedded tokens [1, tokens, size], what takes their place.
        self.embedded: Callable[[Tensor], Tensor] | None = None
        # What left each layer, [tokens, size] by the layer's number; None: not wanted.
        self.outputs: dict[int, Tensor] | None = None


@contextmanager
def probed(model: PreTrainedModel, grouped: GroupedAdapter[Any], layers: Sequence[int]) -> Iterator[LayerProbe]:
    """Look into a model as long as the context is open; nothing else may use the model meanwhile.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters.
        layers: numbers of the layers.

    Yields:
        Where to say what is wanted, and to find it.
    """
    probe = LayerProbe()

    def embedding_hook(_: Any, __: Any, output: Tensor) -> Tensor:
        return output if probe.embedded is None else probe.embedded(output)

    def layer_hook(number: int) -> Callable[[Any, Any, Any], None]:
        def note(_: Any, __: Any, output: Any) -> None:
            if probe.outputs is not None:
                states = output[0] if isinstance(output, tuple) else output
                probe.outputs[number] = states.reshape(-1, states.shape[-1])

        return note

    # What comes before the lowest adapted layer is part of the way from the embeddings: it is not read from a file.
    prefix, grouped.frozen_prefix = grouped.frozen_prefix, None
    stack = decoder_layers(model)
    hooks = [stack[number].register_forward_hook(layer_hook(number)) for number in layers]
    hooks.append(model.get_input_embeddings().register_forward_hook(embedding_hook))
    try:
        yield probe
    finally:
        for hook in hooks:
            hook.remove()
        grouped.frozen_prefix = prefix
