"""The section local.pruning: clients train over a base model of which each leaves out what matters least to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedloom.recipe.adapter_schema import LowRank
from fedloom.recipe.base import Config, Fraction, PositiveInt

if TYPE_CHECKING:
    from fedloom.recipe.schema import Recipe

# Their server adds a weighted mean of what clients send, which can be one over those that kept an entry.
MEANS = ("fedavg", "fedprox", "ffa_lora", "rolora")
DEFAULT_RATE = 0.3


class PruningConfig(Config):
    """How much of the frozen base a client leaves out of its training, and how that is computed.

    Structured, client-specific pruning for latency is published (arXiv 2602.01024); its ranking is not, and neither
    are its parameters: the importance is that of arXiv 1905.10650 (heads), and all defaults are our choice.
    """

    rate: Fraction | dict[str, Fraction] | None = Field(
        None,
        description="Share of the attention heads and of the feed-forward neurons of every layer that a client leaves "
        "out (what is kept is rounded up), for all clients, or by client; those not named: 0. 0: the plain run. "
        "Default: 0.3; with federation.participation.wireless, what its scheme hands out in every round.",
    )
    calibration_examples: PositiveInt = Field(
        8, description="Training examples of a client on which it measures how much each unit matters to it."
    )
    refresh: PositiveInt | None = Field(
        None,
        description="Measure anew every so many of a client's rounds, under the adapter it is sent; default: once, in "
        "its first round.",
    )
    compute: Literal["auto", "sliced", "masked"] = Field(
        "auto",
        description="sliced: a client trains alone over smaller weights; masked: clients share a pass over the whole "
        "base, and what is left out is multiplied by 0; auto: whichever is faster, by the client's rate and tokens, on "
        "accelerators masked. The results differ by rounding.",
    )

    def rate_of(self, client: str) -> float:
        """The rate of one client.

        Args:
            client: its name.

        Returns:
            From 0 up, below 1.
        """
        if self.rate is None:
            return DEFAULT_RATE
        return self.rate.get(client, 0.0) if isinstance(self.rate, dict) else self.rate


def prunes(recipe: Recipe) -> bool:
    """Whether any client leaves out anything: otherwise the run is the one without the section, to the bit.

    Args:
        recipe: the run.

    Returns:
        Whether a rate is above 0.
    """
    pruning, wireless = recipe.local.pruning, recipe.federation.participation.wireless
    if pruning is None:
        return False
    if wireless is not None:
        return wireless.prunes
    return any(pruning.rate.values()) if isinstance(pruning.rate, dict) else pruning.rate != 0


def check_pruning(recipe: Recipe) -> None:
    """Check what local.pruning can't be combined with.

    Args:
        recipe: its sections, each of them checked by itself.

    Raises:
        ValueError: for the first combination that is refused.
    """
    wireless = recipe.federation.participation.wireless
    if recipe.local.pruning is None:
        if wireless is not None and wireless.prunes:
            raise ValueError(
                f"federation.participation.wireless.scheme: {wireless.scheme} needs the section local.pruning, which "
                "says how clients prune; {} takes every default"
            )
        return
    if wireless is not None and recipe.local.pruning.rate is not None:
        raise ValueError(
            "local.pruning.rate has no effect with federation.participation.wireless, whose scheme hands out rates"
        )
    federation, kind, name = recipe.federation, recipe.model.adapter, recipe.federation.algorithm.name
    if not isinstance(kind, LowRank):
        raise ValueError(
            f"local.pruning: which entries of an adapter go with a unit of the base is known of LoRA's factors A and B "
            f"(model.adapter.kind lora or rslora), not of {kind.kind}"
        )
    if name not in MEANS:
        raise ValueError(
            f"local.pruning: each entry's mean is taken over the clients that kept it, and one that nobody kept stays "
            f"as it is; {name} does something else with updates. It goes with: {', '.join(MEANS)}"
        )
    if recipe.model.quantization is not None:
        raise ValueError("local.pruning: a quantised base holds no rows and columns of weights that could be left out")
    for key, given in (
        ("federation.private", federation.private),
        ("federation.layers", federation.layers),
        ("local.sparse", recipe.local.sparse),
    ):
        if given:
            raise ValueError(f"local.pruning: {key} says already which part of the adapter a client trains or sends")
    if federation.participation.clock is not None:
        raise ValueError(
            "local.pruning: federation.participation.clock simulates clients that compute and send everything"
        )
    if recipe.runtime.prefix_cache_gb is not None and prunes(recipe):
        raise ValueError(
            "runtime.prefix_cache_gb has no effect: with local.pruning, layers below the lowest adapter differ from "
            "client to client"
        )
