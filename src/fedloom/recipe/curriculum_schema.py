"""The section local.curriculum of a recipe: a client trains on its easiest examples first."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedloom.recipe.base import Config, PositiveInt

# Difficulties that are measured under an adapter, and so change from round to round.
MEASURED = ("fisher", "loss")


class DifficultyColumn(Config):
    """How hard an example is stands in its record."""

    column: str = Field(min_length=1, description="Field with a number in every training record; higher is harder.")


class CurriculumConfig(Config):
    """Which of a client's examples it trains on in which round: batches of the easiest first, in the end all.

    The idea, difficulty as the trace of the Fisher information and linear growth are those of FibecFed (arXiv
    2410.00131); the formulas of the paces and all defaults are our choice.
    """

    difficulty: Literal["fisher", "loss", "length", "random"] | DifficultyColumn = Field(
        "fisher",
        description="What makes an example hard: fisher (trace of its Fisher information), loss (mean loss of its "
        "labels), length (tokens), random (a fixed order, to compare with), or {column: NAME}, a field of the records.",
    )
    pace: Literal["linear", "sqrt", "exp"] = Field(
        "linear", description="How the share of a client's batches grows from start to 1; sqrt early, exp late."
    )
    start: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of a client's batches in the first round; 1 is the run without a curriculum.",
    )
    full_after: float = Field(0.8, gt=0, le=1, description="Share of the rounds after which every batch is used.")
    refresh: PositiveInt | None = Field(
        None,
        description="Measure fisher or loss anew every so many of a client's rounds, under the adapter it starts from; "
        "default: once, in its first round. loss with 1 is self-paced learning.",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> CurriculumConfig:
        if self.refresh is not None and self.difficulty not in MEASURED:
            name = self.difficulty if isinstance(self.difficulty, str) else "column"
            raise ValueError(f"refresh has no effect on difficulty {name!r}, which never changes")
        return self

    @property
    def column(self) -> str | None:
        """The field of the records that says how hard they are; None where none does."""
        return self.difficulty.column if isinstance(self.difficulty, DifficultyColumn) else None
