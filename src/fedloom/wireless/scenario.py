"""A scenario: a cell, its channels, its clients' devices and work, as a checked YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from fedloom.errors import UserError, nearest
from fedloom.recipe.base import Config, PositiveInt
from fedloom.recipe.loading import explain
from fedloom.recipe.shipped import PACKAGE
from fedloom.recipe.yaml_text import parse_yaml


class Interval(Config):
    """Values of clients, drawn uniformly between two ends; the same ends give all clients the same."""

    low: float = Field(gt=0, description="The least.")
    high: float = Field(gt=0, description="The most.")

    @model_validator(mode="after")
    def _in_order(self) -> Interval:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, above high, {self.high:g}")
        return self


class CellConfig(Config):
    """The band and how its waves spread (defaults: our choice, of the order of the sister works')."""

    bandwidth_hz: float = Field(20e6, gt=0, description="The uplink's band B, split between the clients of a round.")
    noise_dbm_per_hz: float = Field(-174.0, description="Density of the noise: thermal at room temperature.")
    base_station_power_dbm: float = Field(30.0, description="With which the adapter is broadcast.")
    distance_m: Interval = Field(
        Interval(low=50.0, high=500.0), description="From the base station to a client, drawn once for each."
    )
    path_loss_at_one_km_db: float = Field(128.1, description="Loss of power at a distance of 1 km.")
    path_loss_per_decade_db: float = Field(
        37.6, ge=0, description="Further loss when the distance is ten times as long."
    )


class FadingConfig(Config):
    """What varies from round to round, with mean power 1; constant within a round (block fading)."""

    kind: Literal["rayleigh", "rician", "none"] = Field(
        "rayleigh",
        description="Rayleigh: no line of sight; Rician: one beside scattered waves; none: a constant channel.",
    )
    k_factor: float | None = Field(
        None, gt=0, description="Rician only: power of the line of sight over that of the scattered waves."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> FadingConfig:
        if self.kind == "rician" and self.k_factor is None:
            raise ValueError("k_factor: is required by kind: rician")
        if self.kind != "rician" and self.k_factor is not None:
            raise ValueError(f"k_factor has no effect with kind: {self.kind}")
        return self


class DeviceConfig(Config):
    """A class of devices."""

    name: str = Field(min_length=1, description="What to call it.")
    flop_per_second: Interval = Field(description="Training speed F_k, drawn once for each client.")
    power_dbm: float = Field(23.0, description="With which its clients send.")
    share: float = Field(1.0, gt=0, description="Of the clients, relative to the other classes' shares.")


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


class PruningConfig(Config):
    """How much may be pruned."""

    budget: float = Field(0.3, ge=0, description="Gamma: bound of the clients' rates, averaged by their examples.")
    max_rate: float = Field(0.8, ge=0, lt=1, description="rho_max: of every client.")


class TotalConfig(Config):
    """The rounds of a whole fine-tuning, R = R_0 / (1 - kappa * mean rate)."""

    rounds_unpruned: PositiveInt = Field(100, description="R_0: rounds until the target without pruning.")
    pruning_cost: float = Field(ge=0, description="kappa: what pruning adds to the rounds.")


class Scenario(Config):
    """A wireless federation."""

    name: str = Field("cell", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the files that are written.")
    seed: int = Field(0, ge=0, description="Of every draw.")
    clients: PositiveInt = Field(10, description="K, of every round.")
    cell: CellConfig = Field(CellConfig(), description="Band, powers and geometry.")
    fading: FadingConfig = Field(FadingConfig(), description="What varies from round to round.")
    trace: str | None = Field(
        None,
        min_length=1,
        description="A CSV or JSON Lines file with round, client and gain_db (received over sent power), from round 0 "
        "and for every client in each; after its last round it repeats. In place of clients, distances and fading.",
    )
    devices: list[DeviceConfig] = Field(
        [DeviceConfig(name="device", flop_per_second=Interval(low=1e12, high=4e12))],
        min_length=1,
        description="Classes of devices; a client's is drawn by their shares.",
    )
    work: WorkConfig = Field(WorkConfig(), description="What clients compute and send.")
    pruning: PruningConfig = Field(PruningConfig(), description="How much may be pruned.")
    total: TotalConfig | None = Field(
        None, description="Also look for the budget of the shortest fine-tuning, up to the highest rates."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> Scenario:
        if self.trace is not None:
            geometry = {"distance_m", "path_loss_at_one_km_db", "path_loss_per_decade_db"}
            given = sorted({"clients", "fading"} & self.model_fields_set)
            given += [f"cell.{key}" for key in sorted(geometry & self.cell.model_fields_set)]
            if given:
                raise ValueError(f"{given[0]} has no effect with a trace, which has clients and gains of its own")
        names = [device.name for device in self.devices]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"devices: two are called {twice!r}")
        return self


def shipped_scenarios() -> dict[str, Path]:
    """Scenarios that come with Fedloom, by name.

    Returns:
        Paths of the YAML files: beside the package when installed, in the repository when worked on.
    """
    for folder in (PACKAGE / "recipes" / "wireless", PACKAGE.parent.parent / "recipes" / "wireless"):
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
