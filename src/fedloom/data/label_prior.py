"""A partition in which every client has a label prior and a share of the records of its own, in each part of its data.

The setting of the experiments of arXiv 2410.00131: each client's label prior is drawn from a Dirichlet distribution, so
is its share of the records, and its test records follow its training prior. How records are dealt where their supply
does not match the priors is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom.data.client_sizes import PURPOSE, client_names, require_enough, with_minimum
from fedloom.randomness import numpy_generator

Matrix = NDArray[np.float64]

# Far below one record, and never 0: any supply of labels can be dealt to priors and sizes without zeros.
_LEAST_SHARE = 1e-9
_FITTINGS, _CLOSE_ENOUGH = 200, 1e-3


def label_prior(
    values: Sequence[str],
    parts: Sequence[str],
    clients: int,
    alpha: float,
    size_alpha: float | None,
    min_examples: int,
    seed: int,
) -> list[str]:
    """Deal records to clients with label priors and sizes of their own, the same in every part.

    Client k draws its prior q_k ~ Dirichlet(alpha) over the labels and its share s_k ~ Dirichlet(size_alpha) of the
    records. Every record of a part is dealt once: the numbers of records by client and label are those, with the sizes
    n s_k and the labels that the part holds, which are nearest to n s_k q_k (see `fitted`), in whole records (see
    `rounded`). Which records of a label a client gets is drawn.

    Args:
        values: the label of each record.
        parts: the part of the data (train, validation, test) each record belongs to, or the same text for all.
        clients: how many share the records.
        alpha: concentration of priors; small: each client has few labels.
        size_alpha: concentration of sizes; None: equal ones.
        min_examples: smallest client allowed, all parts together; priors and shares are redrawn until it holds, at
            most 50 times, then records move from the largest clients.
        seed: the recipe's seed.

    Returns:
        The client of each record.

    Raises:
        UserError: when clients * min_examples exceeds the records.
    """
    require_enough(len(values), clients, min_examples)
    names = client_names(clients)
    labels, label_of = np.unique(np.array(values, dtype=object), return_inverse=True)
    kinds, part_of = np.unique(np.array(parts, dtype=object), return_inverse=True)
    places = {
        (part, label): np.flatnonzero((part_of == part) & (label_of == label))
        for part in range(len(kinds))
        for label in range(len(labels))
    }

    def draw(attempt: int) -> NDArray[np.int64]:
        priors = np.stack(
            [
                numpy_generator(seed, "label_prior", attempt, name).dirichlet(np.full(len(labels), alpha))
                for name in names
            ]
        )
        shares = np.full(clients, 1 / clients)
        if size_alpha is not None:
            shares = numpy_generator(seed, "client_shares", attempt).dirichlet(np.full(clients, size_alpha))
        owners = np.empty(len(values), dtype=np.int64)
        for part, kind in enumerate(kinds):
            supply = np.array([len(places[part, label]) for label in range(len(labels))], dtype=np.int64)
            counts = rounded(fitted(priors, shares, supply), supply)
            for label, value in enumerate(labels):
                generator = numpy_generator(seed, PURPOSE, attempt, f"{kind} {value}")
                owners[generator.permutation(places[part, label])] = np.repeat(np.arange(clients), counts[:, label])
        return owners

    return [names[owner] for owner in with_minimum(draw, clients, min_examples)]


def fitted(priors: Matrix, shares: Matrix, supply: NDArray[np.int64]) -> Matrix:
    """Find the expected numbers of records by client and label, by iterative proportional fitting.

    Of all tables with these sizes and this supply it is the one nearest to the priors in Kullback-Leibler divergence
    (Csiszár 1975). Where the priors' mean is the supply, it is the priors times the sizes.

    Args:
        priors: [clients, labels], each row sums to 1.
        shares: [clients], sum to 1.
        supply: [labels] int64, records of each label.

    Returns:
        [clients, labels] fp64; rows sum to shares times the records, columns to the supply: to a thousandth of a
        record, or as near as two hundred fittings come where priors want labels that there are not.
    """
    sizes, held = np.maximum(shares * supply.sum(), _LEAST_SHARE), supply > 0
    table = np.zeros(priors.shape)
    part: Matrix = (priors[:, held] + _LEAST_SHARE) * sizes[:, None]
    for _ in range(_FITTINGS):
        part *= supply[held] / part.sum(axis=0)
        rows = part.sum(axis=1)
        if np.abs(rows - sizes).max() < _CLOSE_ENOUGH:
            break
        part *= (sizes / rows)[:, None]
    table[:, held] = part
    return table


def rounded(table: Matrix, supply: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round a table to whole records that use the supply up exactly, with each client's size within one of its own.

    The running total along clients and labels is rounded, which keeps sizes; then, label by label, what one has too
    much of and another too little changes at the client whose numbers it brings nearest to the table.

    Args:
        table: [clients, labels] fp64, from `fitted`.
        supply: [labels] int64, records of each label.

    Returns:
        [clients, labels] int64; columns sum to the supply.
    """
    totals = np.floor(np.cumsum(table) + 0.5).astype(np.int64).clip(0, int(supply.sum()))
    totals[-1] = supply.sum()
    counts = np.diff(np.maximum.accumulate(totals), prepend=0).reshape(table.shape)
    surplus = counts.sum(axis=0) - supply
    while surplus.any():
        # Halves are decided by the first client and label: no draw is needed.
        much, little = int(surplus.argmax()), int(surplus.argmin())
        gain = (counts - table)[:, much] - (counts - table)[:, little]
        client = int(np.where(counts[:, much] > 0, gain, -np.inf).argmax())
        counts[client, much] -= 1
        counts[client, little] += 1
        surplus[much] -= 1
        surplus[little] += 1
    return counts
