"""A scenario: a cell, its channels, its clients' devices and work, as a checked YAML file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from fedloom.errors import UserError, nearest
from fedloom.recipe.base import Config, PositiveInt
from fedloom.recipe.loading import explain
from fedloom.recipe.network_schema import Interval, NetworkConfig
from fedloom.recipe.shipped import PACKAGE
from fedloom.recipe.yaml_text import parse_yaml


class WorkConfig(Config):
    """What a client computes and sends in a round (default: GPT-2 small with LoRA of rank 8 on two projections)."""

    examples: Interval = Field(
        Interval(low=100.0, high=500.0), description="Examples n_k of a client, drawn once and rounded; its weight."
    )
    epochs: PositiveInt = Field(1, description="Passes over them in a round.")
    tokens_per_example: PositiveInt = Field(128, description="Length of an example.")
    base_parameters: float = Field(124e6, gt=0, description="Of the frozen model: 4 FLOP each for every token.")
    adapter_parameters: float = Field(294_912, gt=0, description="Trained ones: 6 FLOP each for every token; sent.")
    bits_per_parameter: PositiveInt = Field(32, description="Of the adapter as it is sent.")


class TotalConfig(Config):
    """The rounds of a whole fine-tuning, R = R_0 / (1 - kappa * mean rate)."""

    rounds_unpruned: PositiveInt = Field(100, description="R_0: rounds until the target without pruning.")
    pruning_cost: float = Field(ge=0, description="kappa: what pruning adds to the rounds.")


class Scenario(NetworkConfig):
    """A wireless federation."""

    name: str = Field("cell", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the files that are written.")
    seed: int = Field(0, ge=0, description="Of every draw.")
    clients: PositiveInt = Field(10, description="K, of every round; a trace has clients of its own.")
    work: WorkConfig = Field(WorkConfig(), description="What clients compute and send.")
    total: TotalConfig | None = Field(
        None, description="Also look for the budget of the shortest fine-tuning, up to the highest rates."
    )

    @model_validator(mode="after")
    def _clients_have_effect(self) -> Scenario:
        if self.trace is not None and "clients" in self.model_fields_set:
            raise ValueError("clients has no effect with a trace, which has clients of its own")
        return self


def shipped_scenarios() -> dict[str, Path]:
    """Scenarios that come with Fedloom, by name.

    Returns:
        Paths of the YAML files: beside the package when installed, in the repository when worked on.
    """
    for folder in (PACKAGE / "scenarios", PACKAGE.parent.parent / "scenarios"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load_scenario(source: str) -> Scenario:
    """Read and check a scenario.

    Args:
        source: path of a YAML file, or a shipped scenario's name.

    Returns:
        The scenario with every default filled in.

    Raises:
        UserError: with key, value and what is allowed, where anything is wrong.
    """
    path, shipped = Path(source), shipped_scenarios()
    if not path.is_file():
        if source not in shipped:
            close = nearest(path.stem, shipped)
            hint = f"did you mean the shipped scenario {close!r}?" if close else f"shipped are: {', '.join(shipped)}"
            raise UserError(f"scenario: no such file: {source}", hint=hint)
        path = shipped[source]
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"scenario: {path} is not a UTF-8 text file") from None
    if not isinstance(values, dict | None):
        raise UserError(f"scenario: expected a mapping of keys, got {type(values).__name__}")
    return check_scenario(values or {})


def check_scenario(values: dict[str, object]) -> Scenario:
    """Check a scenario given as a mapping.

    Args:
        values: its keys and values.

    Returns:
        The scenario.

    Raises:
        UserError: for the first thing that is wrong.
    """
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        raise explain(error, Scenario) from None
