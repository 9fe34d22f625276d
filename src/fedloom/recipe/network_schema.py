"""A radio cell: its band, its channels and its clients' devices, for a scenario and for training in one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedloom.recipe.base import Config


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


class PruningBounds(Config):
    """How much may be pruned."""

    budget: float = Field(0.3, ge=0, description="Gamma: bound of the clients' rates, averaged by their examples.")
    max_rate: float = Field(0.8, ge=0, lt=1, description="rho_max: of every client.")


class NetworkConfig(Config):
    """A radio cell and its clients."""

    cell: CellConfig = Field(CellConfig(), description="Band, powers and geometry.")
    fading: FadingConfig = Field(FadingConfig(), description="What varies from round to round.")
    trace: str | None = Field(
        None,
        min_length=1,
        description="A CSV or JSON Lines file with round, client and gain_db (received over sent power), from round 0 "
        "and for every client in each; after its last round it repeats. In place of distances and fading.",
    )
    devices: list[DeviceConfig] = Field(
        [DeviceConfig(name="device", flop_per_second=Interval(low=1e12, high=4e12))],
        min_length=1,
        description="Classes of devices; a client's is drawn by their shares.",
    )
    pruning: PruningBounds = Field(
        PruningBounds(), description="The budget of a round, and the highest rate of a client."
    )

    @model_validator(mode="after")
    def _has_effect(self) -> NetworkConfig:
        if self.trace is not None:
            geometry = {"distance_m", "path_loss_at_one_km_db", "path_loss_per_decade_db"}
            # What a resolved recipe writes out are the defaults.
            given = ["fading"] if self.fading != FadingConfig() else []
            given += [
                f"cell.{key}" for key in sorted(geometry) if getattr(self.cell, key) != getattr(CellConfig(), key)
            ]
            if given:
                raise ValueError(f"{given[0]} has no effect with a trace, which has gains of its own")
        names = [device.name for device in self.devices]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"devices: two are called {twice!r}")
        return self
