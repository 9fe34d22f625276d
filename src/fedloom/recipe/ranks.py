"""Which rank a client's adapter has."""

from __future__ import annotations

from fedloom.randomness import numpy_generator
from fedloom.recipe.adapter_schema import AdapterKind, DoraConfig, LowRank


def client_rank(config: AdapterKind, seed: int, client: str) -> int:
    """The rank of a client's adapter: of the group that names it, else of the group it is drawn into.

    Args:
        config: the recipe's adapter section.
        seed: the recipe's.
        client: its name.

    Returns:
        The rank; the same whoever else takes part. 0 of kinds without factors of a rank.
    """
    if not isinstance(config, LowRank | DoraConfig):
        return 0
    if isinstance(config.rank, int):
        return config.rank
    shares: list[tuple[int, float]] = []
    for group in config.rank:
        if group.clients is not None and client in group.clients:
            return group.rank
        shares.append((group.rank, group.share or 0.0))
    drawn = numpy_generator(seed, "rank", 0, client).random() * sum(share for _, share in shares)
    for rank, share in shares:
        drawn -= share
        if drawn < 0:
            return rank
    return max(rank for rank, share in shares if share)
