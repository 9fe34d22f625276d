"""The section federation.stop of a recipe: what ends the rounds before the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedloom.recipe.base import Config, PositiveInt

if TYPE_CHECKING:
    from fedloom.recipe.schema import Recipe

# Measured of classification only.
CLASS_MEASURES = ("macro_f1", "matthews")


class TargetConfig(Config):
    """A result that is good enough."""

    measure: Literal["loss", "accuracy", "macro_f1", "matthews"] = Field(
        description="loss: reached from value down; accuracy and, of classification, macro_f1 and matthews (Matthews "
        "correlation): from value up. Of the global test where there is one, else the mean over clients' own tests."
    )
    value: float = Field(ge=0, description="Nats, or the share of exact answers, or up to 1.")

    @model_validator(mode="after")
    def _reachable(self) -> TargetConfig:
        if self.measure == "accuracy" and not 0 < self.value <= 1:
            raise ValueError(f"an accuracy is a share: {self.value:g} is not above 0 and at most 1")
        if self.measure in CLASS_MEASURES and not 0 < self.value <= 1:
            raise ValueError(f"{self.measure} reaches up to 1: {self.value:g} is not above 0 and at most 1")
        return self


class StopConfig(Config):
    """Ends the rounds after the first in which one of its rules holds; federation.rounds stays the upper bound."""

    seconds: float | None = Field(
        None, gt=0, description="Seconds since the start, data and evaluations included: measured, not simulated."
    )
    bytes: PositiveInt | None = Field(None, description="Bytes sent, up and down together.")
    tokens: PositiveInt | None = Field(None, description="Tokens that clients were trained on.")
    target: TargetConfig | None = Field(None, description="A result, looked at in every evaluation.")
    patience: PositiveInt | None = Field(
        None,
        description="So many evaluations in a row without a lower loss than the best so far, that before the first "
        "round included: the untuned base's, or that of model.adapter.start.",
    )

    @model_validator(mode="after")
    def _has_a_rule(self) -> StopConfig:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"needs one of {', '.join(type(self).model_fields)}")
        return self


def check_stop(recipe: Recipe) -> None:
    """Check that every rule could end a run.

    Args:
        recipe: its sections, each of them checked by itself.

    Raises:
        ValueError: for a rule that has no effect, with the reason.
    """
    rules, key = recipe.federation.stop, "federation.stop"
    if rules is None:
        return
    every, rounds = recipe.evaluation.every, recipe.federation.rounds
    for name in ("target", "patience"):
        if getattr(rules, name) is not None and every is None:
            raise ValueError(
                f"{key}.{name} has no effect without evaluation.every: only the final adapter is evaluated"
            )
    if rules.patience is not None and every is not None and rules.patience * every >= rounds:
        raise ValueError(
            f"{key}.patience: {rules.patience} has no effect: {rules.patience} evaluations, one every {every} rounds, "
            f"take as long as federation.rounds, {rounds}"
        )
    if rules.target is not None and rules.target.measure == "accuracy" and not recipe.measures_accuracy:
        raise ValueError(
            f"{key}.target.measure: accuracy is not measured here: evaluation.exact_match is "
            f"{str(recipe.evaluation.exact_match).lower()}"
        )
    if rules.target is not None and rules.target.measure in CLASS_MEASURES and recipe.task.kind != "classification":
        raise ValueError(
            f"{key}.target.measure: {rules.target.measure} is not measured here: task.kind is {recipe.task.kind}"
        )
