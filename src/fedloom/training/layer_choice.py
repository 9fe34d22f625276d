"""The layers that clients share, chosen from what all of them report: pure functions, whatever the clients' order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fedloom.randomness import numpy_generator
from fedloom.recipe.layers_schema import LayersConfig

# Products of shares and numbers of layers that are whole but for rounding are not rounded up.
ROUNDING = 1e-9


@dataclass(frozen=True)
class LayerChoice:
    """Which layers are shared, and how that came about.

    Args:
        layers: numbers of the layers that the adapter has tensors in.
        chosen: those whose tensors are sent and aggregated.
        importances: one for each of the layers; None where nothing was measured.
        keep_share: the clients' mean share of directions that matter, for `lossless`.
        keep_shares: of each client.
        bytes_up: of all clients' reports.
        bytes_down: of the choice, sent to all clients.
        seconds: that the clients' measurements took.
    """

    layers: list[int]
    chosen: list[int]
    importances: list[float] | None = None
    keep_share: float | None = None
    keep_shares: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0

    @property
    def others(self) -> tuple[int, ...]:
        """The layers that are not chosen."""
        return tuple(layer for layer in self.layers if layer not in self.chosen)

    def values(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return asdict(self)

    def event(self) -> dict[str, Any]:
        """What the event log tells: not what single clients have measured, which the run directory holds."""
        return {key: value for key, value in self.values().items() if key != "keep_shares"}


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of clients' values, weighted by their examples: exact sums, so that no order shows.

    Args:
        values: one for each client.
        weights: one for each client, not all zero.

    Returns:
        sum_k w_k v_k / sum_k w_k.
    """
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def number_of_layers(config: LayersConfig, layers: int, keep_share: float | None = None) -> int:
    """How many layers are shared.

    Args:
        config: the recipe's section.
        layers: L, that the adapter has tensors in.
        keep_share: the clients' mean, for `lossless`.

    Returns:
        The recipe's number; or ceil(share L); or min(L, max(1, ceil(scale L keep_share))).
    """
    if config.number is not None:
        return config.number
    if config.share == "lossless":
        assert keep_share is not None
        assert config.scale is not None
        share = config.scale * keep_share
    else:
        assert isinstance(config.share, float)
        share = config.share
    return min(layers, max(1, math.ceil(share * layers - ROUNDING)))


def choose(
    config: LayersConfig, layers: Sequence[int], importances: Sequence[float] | None, number: int, seed: int
) -> list[int]:
    """The layers that are shared.

    Args:
        config: the recipe's section.
        layers: those that the adapter has tensors in, ascending.
        importances: one for each, where the recipe chooses by them.
        number: how many to choose.
        seed: the recipe's seed.

    Returns:
        Their numbers, ascending; of equally important layers the lowest.
    """
    if importances is not None:
        order = np.argsort(-np.asarray(importances), kind="stable")[:number]
    elif config.choose == "random":
        order = numpy_generator(seed, "layers").permutation(len(layers))[:number]
    else:
        order = np.arange(number) if config.choose == "lowest" else np.arange(len(layers) - number, len(layers))
    return sorted(layers[place] for place in order)
