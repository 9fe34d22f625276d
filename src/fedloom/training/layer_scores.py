"""How much layers matter to examples: how far their outputs move, or how alike the examples are to them.

FibecFed (arXiv 2410.00131) scores layers by how sensitive their outputs are to a small change of the input. The measure
below is our choice: an adversarial perturbation of the embeddings in the 2-norm, and movements relative to the output.
FedPepTAO (arXiv 2310.15080) scores them by the similarities of examples' outputs, as its published code does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.model.forward import label_losses, pack_groups, states_everywhere
from fedloom.model.grouped_adapter import Adapter, GroupedAdapter
from fedloom.model.layer_probe import LayerProbe
from fedloom.model.packing import Example

# No division by zero where a layer's output is all zeros.
SMALLEST = 1e-12
# Added to eigenvalues before logarithms and reciprocals (FedPepTAO's code).
EIGENVALUE_OFFSET = 1e-5


def output_movements(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    probe: LayerProbe,
    adapter: Adapter,
    examples: Sequence[Example],
    layers: Sequence[int],
    noise: float,
) -> np.ndarray:
    """How far each layer's output moves for each example, whichever other examples share the pass.

    The embeddings s of an example are moved by z = noise ||s|| g / ||g||, g the gradient of its loss with respect to s
    (the perturbation in the 2-norm's ball that raises the loss most, to first order); norms are Frobenius norms.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters.
        probe: of the model and these layers, see `probed`.
        adapter: fp32 tensors, the same for all examples.
        examples: of one pass.
        layers: their numbers.
        noise: the perturbation's norm relative to that of the embeddings.

    Returns:
        fp64 [examples, layers], ||h(s + z) - h(s)|| / ||h(s)|| over the tokens of an example.
    """
    grouped.load([adapter], trainable=False)
    # An example's scores must not depend on the others.
    batch = pack_groups(grouped, [examples], share_prompts=False)
    lengths = [len(example.tokens) for example in examples]
    leaves: list[Tensor] = []

    def exact(embedded: Tensor) -> Tensor:
        # Our own layers compute in fp32 anyway: then a small perturbation need not be rounded to the base's format.
        return embedded.detach().float() if grouped.own_layers else embedded.detach()

    def leaf(embedded: Tensor) -> Tensor:
        leaves.append(exact(embedded).requires_grad_())
        return leaves[0]

    def outputs(change: Tensor) -> list[Tensor]:
        probe.embedded = lambda embedded: (exact(embedded) + change).to(leaves[0].dtype)
        probe.outputs = {}
        with torch.no_grad():
            states_everywhere(model, grouped, batch)
        return [probe.outputs[layer] for layer in layers]

    try:
        probe.embedded = leaf
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(label_losses(model, grouped, batch).sum(), leaves[:1])
        change = torch.zeros_like(gradient, dtype=torch.float32)
        rows = zip(_rows(change, lengths), _rows(gradient, lengths), _rows(leaves[0].detach(), lengths), strict=True)
        for place, direction, embedded in rows:
            place.copy_(perturbation(direction, embedded, noise))
        pairs = list(zip(outputs(torch.zeros_like(change)), outputs(change), strict=True))
    finally:
        probe.embedded = probe.outputs = None
    movements = [
        [relative_movement(*one) for one in zip(_rows(clean, lengths), _rows(moved, lengths), strict=True)]
        for clean, moved in pairs
    ]
    return np.array(movements, dtype=np.float64).T


def perturbation(gradient: Tensor, embedded: Tensor, noise: float) -> Tensor:
    """The change of an example's embeddings: of noise times their norm, along the gradient of its loss.

    Args:
        gradient: [tokens, size].
        embedded: [tokens, size].
        noise: relative size; 0: no change.

    Returns:
        fp32 [tokens, size]; zeros where the gradient is zero.
    """
    norm = gradient.double().norm()
    if norm == 0:
        return torch.zeros_like(gradient, dtype=torch.float32)
    size: Tensor = noise * embedded.double().norm() / norm
    return (gradient.double() * size).float()


def relative_movement(clean: Tensor, moved: Tensor) -> float:
    """The distance of two outputs of a layer, relative to the first of them: the same for c times both.

    Args:
        clean: [tokens, size].
        moved: [tokens, size].

    Returns:
        The quotient of Frobenius norms.
    """
    clean = clean.double()
    return float((moved.double() - clean).norm() / (clean.norm() + SMALLEST))


def layer_outputs(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    probe: LayerProbe,
    adapter: Adapter,
    examples: Sequence[Example],
    layers: Sequence[int],
) -> list[list[Tensor]]:
    """What leaves each layer for each example.

    Args:
        model: the frozen base with its wrapped layers.
        grouped: the adapters.
        probe: of the model and these layers, see `probed`.
        adapter: fp32 tensors, the same for all examples.
        examples: of one pass.
        layers: their numbers.

    Returns:
        For each layer the examples' outputs, [tokens, size] each.
    """
    grouped.load([adapter], trainable=False)
    batch = pack_groups(grouped, [examples], share_prompts=False)
    lengths = [len(example.tokens) for example in examples]
    try:
        probe.outputs = {}
        with torch.no_grad():
            states_everywhere(model, grouped, batch)
        return [_rows(probe.outputs[layer], lengths) for layer in layers]
    finally:
        probe.outputs = None


def similarity_score(outputs: Sequence[Tensor]) -> float:
    """FedPepTAO's score of a layer: the sum of log(v) + 1/v over the eigenvalues v of its examples' similarities.

    Similarities are cosines of the examples' outputs, token after token in one vector (arXiv 2310.15080; the formula is
    that of its published code, 1e-5 added to each eigenvalue). Ours: of outputs of unequal lengths the shorter one goes
    on with zeros, where the code has what leaves padding; and eigenvalues below zero, being rounding, count as zero.

    Args:
        outputs: [tokens, size] of each example, at least one.

    Returns:
        The score; the more alike the examples, the higher.
    """
    flat = [output.double().flatten() for output in outputs]
    norms = [float(one.norm()) + SMALLEST for one in flat]
    cosines = torch.eye(len(flat), dtype=torch.float64)
    for i, one in enumerate(flat):
        for j in range(i):
            common = min(len(one), len(flat[j]))
            cosines[i, j] = cosines[j, i] = float(one[:common] @ flat[j][:common]) / norms[i] / norms[j]
    values = torch.linalg.eigvalsh(cosines).clamp_min(0) + EIGENVALUE_OFFSET
    return float((values.log() + 1 / values).sum())


def _rows(states: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The rows of each example; what follows them is filler."""
    flat = states.reshape(-1, states.shape[-1])
    return list(flat[: sum(lengths)].split(list(lengths)))
