"""The products of grouped adapters: each group's rows times its own narrow matrices, added to a wide result in place.

One set of functions serves several adapted layers that share their input (query, key and value; gate and up), so that
the input is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

# Products of fewer rows take another path, and round otherwise.
FEWEST_ROWS = 16


@dataclass(frozen=True)
class Site:
    """One adapted layer among those that share an input.

    Args:
        first: the first column of its output.
        last: one beyond its last column.
    """

    first: int
    last: int


def adapter_dtype(device: torch.device, base: torch.dtype) -> torch.dtype:
    """The number format of adapter products: fp32 on a CPU, the base's elsewhere.

    A group has another number of tokens in every step, and on a CPU each new shape of a bf16 product is compiled anew:
    0.7 ms and 0.6 MB each, many times what these narrow products take in either format.

    Args:
        device: where they are computed.
        base: the base model's format.

    Returns:
        The format.
    """
    return torch.float32 if device.type == "cpu" else base


def add_adapters(
    output: Tensor, rows: Tensor, factors: Sequence[Tensor], sites: Sequence[Site], scale: float, starts: Sequence[int]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """output[:, site] += scale * (rows A[g]^T) B[g]^T for the rows of every group g, in place.

    Args:
        output: [tokens, columns].
        rows: [tokens, inputs], of output's dtype.
        factors: A [groups, rank, inputs] and B [groups, outputs, rank] of each site in turn, fp32; or [1, ...] of each,
            which all groups then have in common.
        sites: where each output belongs.
        scale: alpha / rank.
        starts: groups + 1 positions; group g owns rows starts[g] to starts[g + 1].

    Returns:
        What the way back needs: inner [tokens, sites * rank], all A stacked [groups, sites * rank, inputs] and the
        scaled B of each site, in the dtype of rows.
    """
    down = torch.cat([a.to(rows.dtype) for a in factors[::2]], 1)
    ups = [(b * scale).to(rows.dtype) for b in factors[1::2]]
    if len(down) < len(starts) - 1:
        starts = (0, len(rows))
    rank = factors[0].shape[1]
    inner = rows.new_empty(len(rows), down.shape[1])
    for group, (first, last) in enumerate(pairwise(starts)):
        if first == last:
            continue
        few = (0, 0, 0, max(0, FEWEST_ROWS - (last - first)))
        within = nn.functional.pad(rows[first:last], few) @ down[group].t()
        inner[first:last] = within[: last - first]
        for number, (site, up) in enumerate(zip(sites, ups, strict=True)):
            part = within[:, number * rank : (number + 1) * rank]
            place = output[first:last, site.first : site.last]
            if few[-1]:
                place.copy_(nn.functional.pad(place, few).addmm_(part, up[group].t())[: last - first])
            else:
                place.addmm_(part, up[group].t())
    return inner, down, ups


def adapter_gradients(
    gradient: Tensor,
    rows: Tensor,
    inner: Tensor,
    down: Tensor,
    ups: Sequence[Tensor],
    sites: Sequence[Site],
    scale: float,
    starts: Sequence[int],
    to_rows: Tensor | None,
) -> list[Tensor]:
    """The way back through `add_adapters`.

    Args:
        gradient: [tokens, columns], of the output.
        rows: as before.
        inner: as returned.
        down: as returned.
        ups: as returned.
        sites: as before.
        scale: as before.
        starts: as before.
        to_rows: [tokens, inputs], to which the gradient of the rows is added; None where nobody asks for it.

    Returns:
        fp32 gradients of A and B of each site in turn.
    """
    rank = ups[0].shape[2]
    to_down = torch.zeros(down.shape, device=rows.device)
    to_ups = [torch.zeros(up.shape, device=rows.device) for up in ups]
    for group, (first, last) in enumerate(pairwise(starts)):
        if first == last:
            continue
        to_inner = rows.new_empty(last - first, down.shape[1])
        for number, (site, up) in enumerate(zip(sites, ups, strict=True)):
            part = gradient[first:last, site.first : site.last]
            columns = slice(number * rank, (number + 1) * rank)
            torch.mm(part, up[group], out=to_inner[:, columns])
            to_ups[number][group] = part.t() @ inner[first:last, columns]
        to_down[group] = to_inner.t() @ rows[first:last]
        if to_rows is not None:
            to_rows[first:last].addmm_(to_inner, down[group])
    gradients: list[Tensor] = []
    for number, to_up in enumerate(to_ups):
        gradients += [to_down[:, number * rank : (number + 1) * rank], to_up.mul_(scale)]
    return gradients


def squared_gradients(
    gradient: Tensor,
    rows: Tensor,
    inner: Tensor,
    down: Tensor,
    ups: Sequence[Tensor],
    sites: Sequence[Site],
    scale: float,
    starts: Sequence[int],
    to_rows: Tensor | None,
) -> Tensor:
    """As `adapter_gradients`, for factors that all groups share, where only squared norms of gradients are asked for.

    Args:
        gradient: [tokens, columns], of the output.
        rows: as before.
        inner: as returned.
        down: as returned.
        ups: as returned.
        sites: as before.
        scale: as before.
        starts: as before.
        to_rows: [tokens, inputs], to which the gradient of the rows is added; None where nobody asks for it.

    Returns:
        fp64 [groups], of each group's gradients the sum of squares over A and B of all sites.
    """
    rank = ups[0].shape[2]
    to_inner = rows.new_empty(len(rows), down.shape[1])
    for number, (site, up) in enumerate(zip(sites, ups, strict=True)):
        torch.mm(gradient[:, site.first : site.last], up[0], out=to_inner[:, number * rank : (number + 1) * rank])
    if to_rows is not None:
        to_rows.addmm_(to_inner, down[0])
    squares = torch.zeros(len(starts) - 1, dtype=torch.float64, device=rows.device)
    for some, tokens in equal_groups(starts):
        place = slice(starts[some.start], starts[some.stop])

        def apart(values: Tensor, place: slice = place, tokens: int = tokens) -> Tensor:
            return values[place].view(-1, tokens, values.shape[1])

        total = squared_products(apart(to_inner), apart(rows))
        for number, site in enumerate(sites):
            columns = slice(number * rank, (number + 1) * rank)
            of_up = squared_products(apart(gradient[:, site.first : site.last]), apart(inner[:, columns]))
            total += scale**2 * of_up
        squares[some] = total
    return squares


def equal_groups(starts: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Find neighbouring groups of equally many rows: their products can be computed together.

    Args:
        starts: groups + 1 positions.

    Yields:
        Which groups, and the rows of each, at least 1; groups without rows are passed over.
    """
    first = 0
    for tokens, members in groupby(last - first for first, last in pairwise(starts)):
        count = sum(1 for _ in members)
        if tokens:
            yield slice(first, first + count), tokens
        first += count


def squared_products(left: Tensor, right: Tensor) -> Tensor:
    """||left^T right||^2, the squared Frobenius norm of a gradient, for several groups by the cheaper of two ways.

    A gradient is the product of what comes back to a layer and what went into it, summed over tokens. Of few tokens
    (arXiv 1510.01799) it is cheaper to multiply these with one another: sum((left left^T) * (right right^T)).

    Args:
        left: [groups, tokens, m].
        right: [groups, tokens, n].

    Returns:
        fp64 [groups]. Where m or n is a multiple of 4, as layers' sizes are, a group has the bits it would have alone.
    """
    tokens, m, n = left.shape[1], left.shape[2], right.shape[2]
    if tokens * (m + n) < m * n:
        products = torch.bmm(left, left.mT).mul_(torch.bmm(right, right.mT))
        return products.sum((1, 2), dtype=torch.float64)
    norms: Tensor = torch.linalg.vector_norm(torch.bmm(left.mT, right), dim=(1, 2), dtype=torch.float64)
    return norms.square()
