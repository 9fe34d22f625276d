"""Krum and multi-Krum (Blanchard et al., arXiv 1703.02757): keep the updates that have near neighbours.

Both need n >= 2 f + 3 updates. Updates that are rejected are counted among the f; a round that has too few all the same
leaves the adapter as it is (our choice: attackers must not be able to end a run).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.base import Tensors, Update
from fedloom.aggregation.collected import collected
from fedloom.aggregation.composition import Composition

ByzantineClients = Annotated[
    int, Field(ge=0, description="How many of a round's clients may be hostile: f; it needs 2 f + 3 clients or more.")
]
KeptClients = Annotated[
    int, Field(ge=1, description="How many updates are averaged; at most those of a round without its hostile clients.")
]


def krum_scores(squared_distances: Tensor, byzantine: int) -> Tensor:
    """Each client's sum of squared distances to its n - f - 2 nearest others.

    Args:
        squared_distances: [n, n].
        byzantine: f.

    Returns:
        Scores [n]; low ones have close neighbours.
    """
    nearest = len(squared_distances) - byzantine - 2
    # The diagonal is sorted to the end: nobody is a neighbour of itself.
    others = squared_distances.clone().fill_diagonal_(float("inf")).sort(dim=1).values
    return others[:, :nearest].sum(dim=1)


class NearestUpdates:
    """An aggregation rule: the uniform mean of the updates with the lowest scores.

    Args:
        byzantine: f, how many clients may be hostile.
        kept: how many updates are averaged.
    """

    def __init__(self, byzantine: int, kept: int) -> None:
        self.byzantine = byzantine
        self.kept = kept

    def __call__(self, updates: Iterable[Update], reference: Tensors) -> dict[str, Tensor] | None:
        """The mean of the kept ones; see `AggregationRule`."""
        with collected(updates, reference) as matrix:
            count = len(matrix)
            # Who sent no numbers has been found out, and is one hostile client less among the others.
            byzantine = max(0, self.byzantine - matrix.rejected)
            if count < 2 * byzantine + 3:
                if count:
                    warnings.warn(
                        f"{count} updates, and {byzantine} hostile ones may be among them: too few to tell which "
                        f"({2 * byzantine + 3} are needed), so the adapter stays as it is",
                        stacklevel=2,
                    )
                return None
            scores = krum_scores(matrix.squared_distances(), byzantine)
            # A stable sort in the order of names: equal scores go to the lower one.
            kept = set(scores.argsort(stable=True)[: self.kept].tolist())
            return matrix.combination([float(row in kept) for row in range(count)])


class Krum(Composition):
    """x <- x + D_k of the k whose n - f - 2 nearest others are nearest (1703.02757, section 4).

    Equal scores go to the client whose name comes first. Needs all updates at once: they wait in a file, memory holds a
    few adapters.

    Args:
        byzantine_clients: f.
    """

    def __init__(self, byzantine_clients: ByzantineClients) -> None:
        super().__init__(NearestUpdates(byzantine_clients, kept=1))


class MultiKrum(Composition):
    """x <- x + the uniform mean of the m D_k with the lowest Krum scores (1703.02757, section 5); m = n is FedAvg's.

    Needs all updates at once: they wait in a file, memory holds a few adapters.

    Args:
        byzantine_clients: f.
        kept_clients: m; at most n - f is advised.
    """

    def __init__(self, byzantine_clients: ByzantineClients, kept_clients: KeptClients) -> None:
        super().__init__(NearestUpdates(byzantine_clients, kept_clients))
