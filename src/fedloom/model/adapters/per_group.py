"""Operations in which every group has tensors of its own: a vector to scale or shift by, a matrix to multiply with.

A matrix may be sparse, the same few of its entries in every group; it is then formed for one group at a time.

Each works on the rows of one group at a time, so that a group's result and gradients are the same to the last bit
whatever else the batch holds. Rows after the last group belong to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.model.adapter_products import FEWEST_ROWS


def _groups(starts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    return ((group, slice(first, last)) for group, (first, last) in enumerate(pairwise(starts)) if first < last)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, vectors: Tensor, starts: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(rows, vectors)
        ctx.starts = starts
        return _scaled(rows, vectors, starts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, vectors = ctx.saved_tensors
        to_vectors = None
        if ctx.needs_input_grad[1]:
            to_vectors = torch.zeros_like(vectors)
            for group, place in _groups(ctx.starts):
                to_vectors[group] = (gradients[0][place] * rows[place]).sum(0)
        to_rows = _scaled(gradients[0], vectors, ctx.starts) if ctx.needs_input_grad[0] else None
        return to_rows, to_vectors, None


def _scaled(rows: Tensor, vectors: Tensor, starts: Sequence[int]) -> Tensor:
    output = rows.clone()
    for group, place in _groups(starts):
        output[place].mul_(vectors[group])
    return output


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, vectors: Tensor, starts: tuple[int, ...]) -> Tensor:
        ctx.starts, ctx.shape = starts, vectors.shape
        output = rows.clone()
        for group, place in _groups(starts):
            output[place].add_(vectors[group])
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        to_vectors = gradients[0].new_zeros(ctx.shape)
        for group, place in _groups(ctx.starts):
            to_vectors[group] = gradients[0][place].sum(0)
        return gradients[0], to_vectors, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, starts: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.starts = starts
        output = rows.new_zeros(len(rows), weights.shape[1])
        for group, place in _groups(starts):
            size = place.stop - place.start
            # See FEWEST_ROWS: products of fewer rows round otherwise.
            padded = nn.functional.pad(rows[place], (0, 0, 0, max(0, FEWEST_ROWS - size)))
            output[place] = (padded @ weights[group].t())[:size]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        rows, weights = ctx.saved_tensors
        to_weights = torch.zeros_like(weights)
        to_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        for group, place in _groups(ctx.starts):
            to_weights[group] = gradients[0][place].t() @ rows[place]
            if to_rows is not None:
                torch.mm(gradients[0][place], weights[group], out=to_rows[place])
        return to_rows, to_weights, None


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, values: Tensor, positions: Tensor, shape: tuple[int, int], starts: tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(rows, values, positions)
        ctx.shape, ctx.starts = shape, starts
        output = rows.new_zeros(len(rows), shape[0])
        matrix = rows.new_zeros(shape)
        for group, place in _groups(starts):
            # The places are those of the group before, so nothing of that is left.
            matrix.view(-1)[positions] = values[group]
            size = place.stop - place.start
            # See FEWEST_ROWS: products of fewer rows round otherwise.
            padded = nn.functional.pad(rows[place], (0, 0, 0, max(0, FEWEST_ROWS - size)))
            output[place] = (padded @ matrix.t())[:size]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        rows, values, positions = ctx.saved_tensors
        to_values = torch.zeros_like(values)
        to_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        matrix = rows.new_zeros(ctx.shape)
        for group, place in _groups(ctx.starts):
            to_values[group] = (gradients[0][place].t() @ rows[place]).view(-1)[positions]
            if to_rows is not None:
                matrix.view(-1)[positions] = values[group]
                torch.mm(gradients[0][place], matrix, out=to_rows[place])
        return to_rows, to_values, None, None, None


def scaled(rows: Tensor, vectors: Tensor, starts: tuple[int, ...]) -> Tensor:
    """Multiply the rows of every group by its vector.

    Args:
        rows: [tokens, size].
        vectors: [groups, size], of the same dtype.
        starts: groups + 1 positions; group g owns rows starts[g] to starts[g + 1].

    Returns:
        [tokens, size].
    """
    output: Tensor = _Scaled.apply(rows, vectors, starts)  # type: ignore[no-untyped-call]
    return output


def shifted(rows: Tensor, vectors: Tensor, starts: tuple[int, ...]) -> Tensor:
    """Add its vector to the rows of every group.

    Args:
        rows: [tokens, size].
        vectors: [groups, size], of the same dtype.
        starts: groups + 1 positions.

    Returns:
        [tokens, size].
    """
    output: Tensor = _Shifted.apply(rows, vectors, starts)  # type: ignore[no-untyped-call]
    return output


def product(rows: Tensor, weights: Tensor, starts: tuple[int, ...]) -> Tensor:
    """Multiply the rows of every group with its matrix.

    Args:
        rows: [tokens, inputs].
        weights: [groups, outputs, inputs], of the same dtype.
        starts: groups + 1 positions.

    Returns:
        rows W[g]^T, [tokens, outputs]; zero for rows of nobody.
    """
    output: Tensor = _Product.apply(rows, weights, starts)  # type: ignore[no-untyped-call]
    return output


def sparse_product(
    rows: Tensor, values: Tensor, positions: Tensor, shape: tuple[int, int], starts: tuple[int, ...]
) -> Tensor:
    """Multiply the rows of every group with its matrix, of which only some entries are not zero.

    Args:
        rows: [tokens, inputs].
        values: [groups, entries], of the same dtype.
        positions: int64 [entries], in the matrix row by row, the same in every group.
        shape: outputs and inputs.
        starts: groups + 1 positions.

    Returns:
        rows W[g]^T, [tokens, outputs]; zero for rows of nobody.
    """
    output: Tensor = _SparseProduct.apply(  # type: ignore[no-untyped-call]
        rows, values, positions, shape, starts
    )
    return output


def change_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let a module give out something else than it computes.

    Args:
        module: its output is a tensor [..., size], or a tuple that begins with one.
        change: from that, as [tokens, size] rows, to the new output.
    """

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        changed = change(whole.reshape(-1, whole.shape[-1])).to(whole.dtype).view(whole.shape)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    module.register_forward_hook(hook)


def change_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let a module be given something else than it is called with.

    Args:
        module: called with a tensor [..., size].
        change: from that, as [tokens, size] rows, to the new input.
    """

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        given = arguments[0]
        changed = change(given.reshape(-1, given.shape[-1]))
        return (changed.to(given.dtype).view(given.shape), *arguments[1:])

    module.register_forward_pre_hook(hook)
