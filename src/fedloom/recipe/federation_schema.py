"""The federation section of a recipe: rounds, who takes part, how updates become the next adapter."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fedloom.recipe.algorithm import AlgorithmConfig, default_algorithm
from fedloom.recipe.base import Config, PositiveInt
from fedloom.recipe.layers_schema import LayersConfig
from fedloom.recipe.participation_schema import ParticipationConfig
from fedloom.recipe.stop_schema import StopConfig

# What an attacker does by default: enough to break an average (noise, having no direction, takes more), but for
# honest training on wrong answers.
STRENGTHS = {"sign_flip": 10.0, "scale": 10.0, "noise": 100.0, "label_flip": 1.0}


class AttackConfig(Config):
    """Simulated attackers, for trying out robust algorithms: some clients send something else than they have learnt."""

    kind: Literal["sign_flip", "scale", "noise", "nan", "label_flip"] = Field(
        description="sign_flip: minus strength times the update; scale: strength times it; noise: normal numbers of "
        "strength times its norm; nan: no numbers at all; label_flip: strength times what wrong answers have taught "
        "(of classification, classes in reverse order)."
    )
    share: float = Field(0.3, gt=0, lt=1, description="Attackers among the training clients (rounded down).")
    strength: float | None = Field(None, gt=0, description="Default: 10, 100 of noise, 1 of label_flip; nan has none.")

    @model_validator(mode="before")
    @classmethod
    def _default_strength(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("strength") is None and values.get("kind") in STRENGTHS:
            return {**values, "strength": STRENGTHS[values["kind"]]}
        return values

    @model_validator(mode="after")
    def _has_effect(self) -> AttackConfig:
        if self.strength is not None and self.kind not in STRENGTHS:
            raise ValueError(f"strength has no effect on kind {self.kind!r}: it belongs to {', '.join(STRENGTHS)}")
        return self


class FederationConfig(Config):
    """The rounds: how many, who takes part, how updates become the next adapter."""

    rounds: PositiveInt = Field(10, description="How many rounds are trained, unless stop ends them earlier.")
    clients_per_round: PositiveInt = Field(4, description="Clients drawn for each round.")
    participation: ParticipationConfig = Field(
        default_factory=lambda: ParticipationConfig(), description="Who is drawn, and who of them answers in time."
    )
    algorithm: AlgorithmConfig = Field(
        default_factory=default_algorithm, description="How updates become the next adapter; see docs/algorithms.md."
    )
    private: list[str] = Field(
        default_factory=list,
        description="Parts of the adapter that stay with their client: names of tensors or of parts between dots, "
        "with * for any text, e.g. layers.11 or lora_B.",
    )
    layers: LayersConfig | None = Field(
        None,
        description="Share only a part of the layers, chosen once before the first round; default: all. See "
        "docs/layers.md.",
    )
    stop: StopConfig | None = Field(
        None,
        description="Budgets and goals that end the rounds early. Schedules stay those of the planned rounds; "
        "baselines get the rounds that the federation really took.",
    )
    attack: AttackConfig | None = Field(None, description="Simulated attackers, for trying out robust algorithms.")
