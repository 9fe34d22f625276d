"""The section federation.participation.wireless: rounds in a simulated radio cell, on a clock of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedloom.recipe.base import Config
from fedloom.recipe.network_schema import NetworkConfig

Scheme = Literal[
    "jcpba",
    "alternation",
    "optimal_pruning_equal_bandwidth",
    "random_pruning",
    "uniform_pruning_optimal_bandwidth",
    "uniform_pruning_equal_bandwidth",
    "no_pruning_optimal_bandwidth",
    "no_pruning_equal_bandwidth",
]
PLAIN: Scheme = "no_pruning_equal_bandwidth"
# The others make all clients of a round finish together, as far as bounds of the rates allow.
_FINISH_APART = (PLAIN, "uniform_pruning_equal_bandwidth")


class WirelessConfig(Config):
    """A round's clients share a radio band: who prunes how much with how much of it, and how long that takes.

    Joint pruning and bandwidth allocation is published (arXiv 2602.01024), its equations are not: the model is that of
    docs/wireless.md, our own. Nothing is measured, and no run waits for it.
    """

    scenario: str | NetworkConfig = Field(
        "default",
        description="The cell: a shipped scenario's name, a YAML file, or its keys cell, fading, trace, devices and "
        "pruning here. Seed, clients and work are those of the run, whatever a file says.",
    )
    scheme: Scheme = Field(
        "jcpba",
        description="How rates and bandwidths are chosen in every round; see docs/wireless.md. All but no_pruning_* "
        "need the section local.pruning, which says how clients prune.",
    )
    budget: float | None = Field(
        None,
        ge=0,
        description="Gamma: bound of the clients' pruning rates, averaged by their examples; default: the scenario's.",
    )
    channels: Literal["every_round", "once"] = Field(
        "every_round", description="Fading is drawn for every round, or once, for the first, and then stays."
    )

    @property
    def prunes(self) -> bool:
        """Whether clients leave out a part of the base."""
        return not self.scheme.startswith("no_pruning")

    @property
    def equal_bandwidth(self) -> bool:
        """Whether all clients of a round get the same share of the band."""
        return self.scheme.endswith("equal_bandwidth")

    @property
    def finish_together(self) -> bool:
        """Whether the scheme lets all clients of a round finish at the same time."""
        return self.scheme not in _FINISH_APART

    @model_validator(mode="after")
    def _has_effect(self) -> WirelessConfig:
        if self.budget is not None and not self.prunes:
            raise ValueError(f"budget has no effect with scheme: {self.scheme}, which prunes nothing")
        return self
