"""Fed-SB's square matrix R [r, r] in dW = s B R A: how plain LoRA trains it, and where LoRA-SB starts it.

Training needs nothing but LoRA itself: put B R in B's place, and take B's gradient back to R.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedloom.aggregation.lora.factors import Pair, product_svd


class SquareStart(NamedTuple):
    """Where Fed-SB starts, fp64; s B R A is the best approximation of rank r of a step along the gradient.

    Args:
        a: [r, in], orthonormal rows.
        b: [out, r], orthonormal columns.
        r: [r, r], diagonal.
    """

    a: Tensor
    b: Tensor
    r: Tensor


def expand(square: Tensor, b: Tensor) -> Tensor:
    """What LoRA takes for B: B R.

    Args:
        square: R [..., r, r], e.g. of several clients.
        b: B [out, r], the same for all.

    Returns:
        [..., out, r].
    """
    return b @ square


def pull_back(gradient: Tensor, b: Tensor) -> Tensor:
    """The gradient of R, from that of B R: B' G.

    Args:
        gradient: G [..., out, r], of a loss with respect to B R.
        b: B [out, r].

    Returns:
        [..., r, r].
    """
    return b.T @ gradient


def gradient_range(sketch: Tensor) -> Tensor:
    """An orthonormal basis of what a gradient G [out, in] reaches, from its product with a random matrix.

    The randomised range finder of Halko et al. (arXiv 0909.4061). LoRA computes the sketch by itself: with a random A
    and B = 0, the gradient of B is s G A'. So G is never formed, and the mean of clients' sketches is that of the mean
    gradient.

    Args:
        sketch: G A' times any number, [out, q]; q of at least r, better a few more.

    Returns:
        Q [out, min(q, out)], fp64.
    """
    basis: Tensor = torch.linalg.qr(sketch.double()).Q
    return basis


def initial_from_gradient(
    basis: Tensor, projection: Tensor, rank: int, scale: float, step_size: float = 1.0
) -> SquareStart:
    """LoRA-SB's initialisation (arXiv 2411.19557) without a dense gradient.

    The first step of full fine-tuning is taken along the gradient itself, -step_size * G, not along its signs as Adam
    would: signs are not linear, so no sketch gives them (our choice). Exact where G has rank q at most.

    Args:
        basis: Q [out, q] of `gradient_range`.
        projection: Q' G [q, in], the mean over clients: with B = Q, and any A, the gradient of A is s Q' G.
        rank: r, at most q.
        scale: s, LoRA's alpha / r.
        step_size: of the step.

    Returns:
        B = U_r, A = V_r', R = S_r / s, of the SVD U S V' of the step.
    """
    u, s, vh = product_svd(Pair(projection.double() * -step_size, basis.double()), rank)
    return SquareStart(vh, u, torch.diag(s / scale))
