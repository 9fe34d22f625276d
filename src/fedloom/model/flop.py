"""Operations of training on a token: counted from the sizes of a loaded model, for devices that are only simulated.

As usual (arXiv 2001.08361), a multiplication and an addition, 2 FLOP, for each entry of a weight and each token
forwards; as many backwards to the inputs, and, where the weight is trained, as many again to the weight. Attention
between tokens, norms and activations are not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from fedloom.model.grouped_adapter import PREFIX
from fedloom.model.units import Block


@dataclass(frozen=True)
class BaseSize:
    """Entries of the frozen weights that tokens are multiplied with.

    Args:
        layers: of every token, by the name of the layer.
        head: of the output head of a language model, which only tokens with a label see here.
    """

    layers: dict[str, int]
    head: int

    def kept(self, blocks: Sequence[Block], units: Tensor) -> int:
        """What is left of the layers where units are left out.

        Args:
            blocks: the units.
            units: bool [units], those that are kept.

        Returns:
            Entries.
        """
        left = dict(self.layers)
        for block in blocks:
            number = int(block.of(units).sum())
            for name in (*block.incoming, block.outgoing):
                left[name] = left[name] * number // block.count
        return sum(left.values())


def base_size(model: PreTrainedModel, trained: Collection[str]) -> BaseSize:
    """Count the weights of a base model; tables of embeddings are looked up, not multiplied with.

    Args:
        model: the base, with or without adapters on it.
        trained: names of the adapter's tensors; weights of the base that are among them are not frozen.

    Returns:
        The counts.
    """
    named = model.named_parameters(remove_duplicate=False)
    own = {id(value) for name, value in named if name in trained or PREFIX + name in trained}
    output = model.get_output_embeddings()
    layers: dict[str, int] = {}
    head = 0
    for name, module in model.named_modules():
        entries = 0 if isinstance(module, nn.Embedding) else _entries(module, own)
        if module is output:
            head = entries
        elif entries:
            # An adapted layer holds the one it was put on.
            layers[name.removesuffix(".base")] = entries
    return BaseSize(layers, head)


def _entries(module: nn.Module, trained: set[int]) -> int:
    if isinstance(module, nn.Linear):
        # By its sides: a quantised weight is stored in another shape.
        return 0 if id(module.weight) in trained else module.in_features * module.out_features
    own = module.parameters(recurse=False)
    return sum(value.numel() for value in own if value.dim() > 1 and id(value) not in trained)
