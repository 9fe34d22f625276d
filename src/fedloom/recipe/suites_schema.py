"""Section evaluation.suites: benchmarks that the federation's adapter is tested on while it is trained."""

from __future__ import annotations

from pydantic import Field, model_validator

from fedloom.recipe.base import Config, PositiveInt


class SuitesConfig(Config):
    """Suites and tasks of benchmarks; see docs/evaluation.md. The base and the final adapter are always tested."""

    names: list[str] = Field(min_length=1, description="Suites and tasks, as `fedloom evaluate --list` has them.")
    every: PositiveInt | None = Field(None, description="Also test every so many rounds.")
    data: str = Field(min_length=1, description="The folder with the tasks' files, anywhere below it.")
    limit: PositiveInt | None = Field(
        None, description="So many examples of each task at most, always the same; default: all."
    )

    @model_validator(mode="after")
    def _each_once(self) -> SuitesConfig:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names: each once, got {', '.join(self.names)}")
        return self
