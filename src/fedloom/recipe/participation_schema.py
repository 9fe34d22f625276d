"""The section federation.participation of a recipe: who takes part in a round, and when, on a simulated clock."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedloom.errors import UserError
from fedloom.recipe.base import Config, Fraction
from fedloom.recipe.wireless_schema import PLAIN, WirelessConfig


class ClockConfig(Config):
    """Simulated seconds that a client's round takes: training tokens over its speed, and the adapter's transfer.

    The model and its defaults are our choice; nothing here is measured, and no run waits for it.
    """

    tokens_per_second: float = Field(1000.0, gt=0, description="Training speed of the median client (simulated).")
    spread: float = Field(
        0.5, ge=0, description="Clients' speeds are log-normal: the deviation of their logarithm from client to client."
    )
    jitter: float = Field(
        0.1, ge=0, description="The same from round to round of one client; 0: each is always equally fast."
    )
    upload_bytes_per_second: float = Field(1e6, gt=0, description="From every client to the server (simulated).")
    download_bytes_per_second: float = Field(1e6, gt=0, description="From the server to every client (simulated).")


class ParticipationConfig(Config):
    """Who is drawn for a round, and who of them answers in time; everything is simulated."""

    sampling: Literal["uniform", "examples"] = Field(
        "uniform",
        description="Clients are drawn without replacement: all alike, or one after the other with probability "
        "proportional to their training examples. Then size counts twice, unless the algorithm weights uniformly.",
    )
    availability_trace: str | None = Field(
        None,
        min_length=1,
        description="A JSON Lines or CSV file with client, from and to: only clients available at a round's start are "
        "drawn. In simulated seconds, or in rounds where there is no clock; both from 0, `to` excluded. A trace "
        "shorter than the run repeats.",
    )
    drop_out: Fraction = Field(0.0, description="Probability that a drawn client never answers.")
    over_selection: float | None = Field(
        None,
        gt=1,
        description="So many times clients_per_round are drawn, rounded up, and the first clients_per_round to finish "
        "count (arXiv 1902.01046).",
    )
    deadline: float | None = Field(
        None, gt=0, description="Simulated seconds after which a round ends; who hasn't answered by then doesn't count."
    )
    clock: ClockConfig | None = Field(
        None, description="Simulates how long clients take; {} takes every default. Default: rounds have no duration."
    )
    wireless: WirelessConfig | None = Field(
        None,
        description="In place of clock: the clients of a round share a simulated radio band, and may prune to be "
        "faster; {} takes every default. See docs/wireless.md.",
    )

    @property
    def timed(self) -> bool:
        """Whether rounds have a simulated duration."""
        return self.clock is not None or self.wireless is not None

    @model_validator(mode="after")
    def _has_effect(self) -> ParticipationConfig:
        if not self.timed:
            for name in ("over_selection", "deadline"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect without a clock, which says when clients finish: add clock")
        if self.wireless is not None:
            self._check_wireless(self.wireless)
        return self

    def _check_wireless(self, wireless: WirelessConfig) -> None:
        if self.clock is not None:
            raise ValueError("wireless and clock are two models of the same time: give one of them")
        if self.over_selection is not None and wireless.finish_together:
            raise ValueError(
                f"over_selection has no effect with wireless.scheme: {wireless.scheme}, by which all clients of a "
                f"round finish together, and none is the first; it goes with {PLAIN} and "
                "uniform_pruning_equal_bandwidth"
            )
        if self.availability_trace is not None:
            raise ValueError(
                "availability_trace counts simulated seconds, and when a round begins in the cell depends on all that "
                "earlier ones have sent; give drop_out, or clock in place of wireless"
            )

    def check_asynchronous(self) -> None:
        """Check the section of a federation whose rounds are flushes of an asynchronous buffer.

        Raises:
            ValueError: where the clock is missing, or an option belongs to synchronous rounds.
        """
        if not self.timed:
            raise ValueError(
                "federation.participation.clock: is required by asynchronous aggregation, whose order it simulates "
                "(or wireless)"
            )
        if self.wireless is not None and self.wireless.scheme != PLAIN:
            raise ValueError(
                f"federation.participation.wireless.scheme: {self.wireless.scheme} divides the band among the clients "
                "of a round, and asynchronous aggregation has none: clients begin and end at any time, each with an "
                f"equal share ({PLAIN})"
            )
        for name, option in type(self).model_fields.items():
            if name not in {"clock", "wireless"} and getattr(self, name) != option.default:
                raise ValueError(
                    f"federation.participation.{name} has no effect on asynchronous aggregation, which draws uniformly"
                )


def check_concurrency(concurrency: int, buffer_size: int, clients: int) -> None:
    """Check that there is always a client to start: one neither in flight nor in the buffer.

    Args:
        concurrency: clients in flight.
        buffer_size: arrivals of one step of the server.
        clients: number of training clients.

    Raises:
        UserError: where there are too few.
    """
    if concurrency + buffer_size > clients:
        raise UserError(
            f"federation: {concurrency} clients in flight and a buffer of {buffer_size} need "
            f"{concurrency + buffer_size} training clients, as each is drawn from those in neither, and there are "
            f"{clients}"
        )
