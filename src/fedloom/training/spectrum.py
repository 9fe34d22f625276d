"""The spectrum of a loss over an adapter's parameters, by stochastic Lanczos quadrature, and what it says of layers.

The Hessian is never formed: its product with a vector is the derivative of the gradient along that vector. Attention
and adapted layers have gradients written by hand, which autograd can't differentiate again, so that derivative is a
central difference of two exact gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.special import ndtr
from torch import Tensor
from transformers import PreTrainedModel

from fedloom.data.shards import ExampleSet
from fedloom.model.example_sets import examples_at
from fedloom.model.grouped_adapter import GroupedAdapter
from fedloom.randomness import torch_generator
from fedloom.training.example_passes import TOKENS, passes
from fedloom.training.fisher import summed_means

Product = Callable[[Tensor], Tensor]
# How far a central difference steps to either side, as a share of 1 plus the adapter's norm. Its error falls with the
# square of the step until the rounding of fp32 gradients, which grows as the step falls, takes over: against a dense
# Hessian the outermost eigenvalues were within 5e-5 at 3e-5 and 1e-4, 3e-4 at 1e-5, 5e-3 at 1e-3 and 0.1 at 5e-3.
STEP = 1e-4
# What a vector has left, as a share, once it lies within those before: nothing but rounding.
BREAKDOWN = 1e-6
# The kernel and the rule of FedPepTAO's code (arXiv 2310.15080).
KERNEL_VARIANCE = 1e-5
FIRST_STEP, SETTLED, SETTLED_VALUES = 0.1, 0.005, 4


def adapter_spectrum(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    examples: ExampleSet,
    indices: Sequence[int] | NDArray[np.int64],
    iterations: int = 50,
    probes: int = 1,
    seed: int = 0,
    round_number: int = 0,
    client: str = "",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An estimate of the spectrum of the Hessian of the mean loss, those of a trained head left out.

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        examples: where the examples are.
        indices: [n] which of them; the loss is the mean over examples of the mean over labels.
        iterations: Lanczos steps of a probe; each takes two passes forwards and backwards over the examples.
        probes: random vectors.
        seed: the recipe's seed; probes are keyed by it, the round and the client.
        round_number: the round.
        client: its name.

    Returns:
        See `lanczos`.
    """
    parts = [torch.full((math.prod(shape),), name not in grouped.head_names) for name, shape in grouped.shapes.items()]
    places = torch.cat(parts).nonzero()[:, 0].to(grouped.device)
    start = grouped.flatten(adapter).to(grouped.device)
    step = STEP * (1 + float(start.double().norm()))

    def gradient(values: Tensor) -> Tensor:
        moved = {name: view[0] for name, view in grouped.split(values[None]).items()}
        return mean_gradient(model, grouped, moved, examples, indices)[places]

    def product(vector: Tensor) -> Tensor:
        # lanczos gives vectors of length 1.
        shift = torch.zeros_like(start)
        shift[places] = vector.to(start) * step
        ahead, behind = start + shift, start - shift
        return (gradient(ahead) - gradient(behind)) / (2 * step)

    generator = torch_generator(seed, "spectrum", round_number, client)
    return lanczos(product, len(places), iterations, probes, generator)


def mean_gradient(
    model: PreTrainedModel,
    grouped: GroupedAdapter[Any],
    adapter: Mapping[str, Tensor],
    examples: ExampleSet,
    indices: Sequence[int] | NDArray[np.int64],
) -> Tensor:
    """The gradient of the mean over examples of the mean loss of their labels.

    Args:
        model: the frozen base.
        grouped: where the adapter is put; what it holds is replaced.
        adapter: fp32 tensors.
        examples: where the examples are.
        indices: [n] which of them.

    Returns:
        fp64 [parameters], in the flat order of `grouped`.
    """
    total = torch.zeros(grouped.size, dtype=torch.float64, device=grouped.device)
    for members in passes(examples.lengths[np.asarray(indices)], TOKENS):
        grouped.load([adapter])
        chosen = [int(indices[place]) for place in members]
        grouped.backward(summed_means(model, grouped, [examples_at(examples, chosen)]))
        total += grouped.gradients[0]
    return total / len(indices)


def lanczos(
    product: Product, size: int, iterations: int, probes: int, generator: torch.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stochastic Lanczos quadrature of a symmetric matrix's spectrum, with full reorthogonalisation.

    Args:
        product: the matrix times a vector of length 1, fp64 [size].
        size: of the matrix.
        iterations: steps of each probe; it ends earlier where its vectors span all that the matrix reaches.
        probes: Rademacher vectors, at least 1.
        generator: draws them.

    Returns:
        Ritz values fp64 [n], ascending, and their weights fp64 [n], which add up to 1: the share of the matrix's
        eigenvalues that each stands for.
    """
    found = [_probe(product, size, min(iterations, size), generator) for _ in range(probes)]
    values, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(values, kind="stable")
    return values[order], weights[order] / probes


def _probe(
    product: Product, size: int, iterations: int, generator: torch.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    vector = signs / math.sqrt(size)
    basis, diagonal, beside = [vector], [], []
    while True:
        following = product(basis[-1]).double().cpu()
        diagonal.append(float(following @ basis[-1]))
        length = float(following.norm())
        rows = torch.stack(basis)
        # Twice is enough (Parlett): what the first leaves of earlier directions is rounding of the whole vector.
        for _ in range(2):
            following = following - rows.t() @ (rows @ following)
        rest = float(following.norm())
        if len(basis) == iterations or rest <= BREAKDOWN * length:
            break
        beside.append(rest)
        basis.append(following / rest)
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return values, vectors[0] ** 2


def lossless_share(eigenvalues: Sequence[float] | NDArray[np.float64], lipschitz: float) -> float:
    """The share of layers, or neurons, to keep, from all eigenvalues: FibecFed's exact rule (arXiv 2410.00131).

    Args:
        eigenvalues: [d], in any order.
        lipschitz: of the Hessian.

    Returns:
        1 - m / d for the first m with lambda_(m+1) - lambda_m > 4 * lipschitz in ascending order; 1 without such a gap.
    """
    ascending = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    gaps = np.flatnonzero(np.diff(ascending) > 4 * lipschitz)
    return 1.0 - (int(gaps[0]) + 1) / len(ascending) if len(gaps) else 1.0


def lossless_share_of_density(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The share to keep, from an estimated spectrum, by the rule of FedPepTAO's code (arXiv 2310.15080).

    The spectrum is smeared out by a Gaussian kernel of variance 1e-5 * max(1, range). keep(t) = 1 - CDF(t) is looked at
    from t = 0 in steps of 0.1 until four values in a row each differ from the one before by less than 0.005; where
    keep falls below keep(0) / 2 before, the search starts again with half the step.

    Args:
        values: [n] as `lanczos` returns them.
        weights: [n] as `lanczos` returns them.

    Returns:
        Between 0 and 1.
    """
    deviation = math.sqrt(KERNEL_VARIANCE * max(1.0, float(values.max() - values.min())))

    def keep(threshold: float) -> float:
        # Weights add up to 1 but for rounding.
        return min(1.0, float(weights @ ndtr((values - threshold) / deviation)))

    first, step = keep(0.0), FIRST_STEP
    # Below the kernel's width nothing changes from step to step, so the search ends.
    while True:
        settled, before, number = 1, first, 0
        while settled < SETTLED_VALUES:
            number += 1
            now = keep(number * step)
            if now < first / 2:
                break
            settled = settled + 1 if abs(now - before) < SETTLED else 1
            before = now
        else:
            return before
        step /= 2
