"""The model section of a recipe: the frozen base, and the adapter trained on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedloom.recipe.base import Config, PositiveInt


class RankGroup(Config):
    """Clients whose adapters have a rank of their own."""

    rank: PositiveInt = Field(description="Inner size of these clients' factors.")
    share: float | None = Field(
        None, gt=0, le=1, description="Probability that a client no group names is in this one (shares add up to 1)."
    )
    clients: list[str] | None = Field(None, description="Names of its clients.")

    @model_validator(mode="after")
    def _has_members(self) -> RankGroup:
        if self.share is None and not self.clients:
            raise ValueError("a group of clients needs a share, or clients by name")
        return self


class LoraConfig(Config):
    """Low-rank adapters (LoRA, arXiv 2106.09685) on chosen linear layers."""

    kind: Literal["lora"] = Field("lora", description="Low-rank matrices beside frozen layers.")
    rank: PositiveInt | list[RankGroup] = Field(
        8, description="Inner size r of the factors A [r, in] and B [out, r]; or groups of clients with their own."
    )
    alpha: float = Field(16.0, gt=0, description="The adapter's output is scaled by alpha / (largest) rank.")
    targets: list[str] | Literal["all-linear"] = Field(
        default=["q_proj", "v_proj"],
        description="Names of the linear layers that get an adapter, or all-linear (all but the output head).",
    )

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Numbers of the decoder layers that get one, from 0 at the input; default: all."
    )

    @property
    def largest_rank(self) -> int:
        """The rank of the adapter that the server holds."""
        return self.rank if isinstance(self.rank, int) else max(group.rank for group in self.rank)

    @field_validator("rank")
    @classmethod
    def _whole_groups(cls, rank: int | list[RankGroup]) -> int | list[RankGroup]:
        if isinstance(rank, int):
            return rank
        total = sum(group.share or 0.0 for group in rank)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the groups' shares add up to {total:g}, must be 1: clients that none names need a rank")
        named = [client for group in rank for client in group.clients or []]
        for client in named:
            if named.count(client) > 1:
                raise ValueError(f"{client!r} is named twice: a client has one rank")
        return rank

    @field_validator("targets")
    @classmethod
    def _some_targets(cls, targets: list[str] | str) -> list[str] | str:
        if not targets:
            raise ValueError("needs at least one layer name, or all-linear")
        return targets

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, layers: list[int] | None) -> list[int] | None:
        if layers == []:
            raise ValueError("needs at least one number; leave it out for all layers")
        return layers


class ModelConfig(Config):
    """The frozen base model and the adapter trained on it."""

    base: str = Field("pocket", description="A model folder, a hub id, or 'pocket' (embedded in Fedloom).")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of the frozen base; auto: bfloat16 where the hardware computes it."
    )
    adapter: LoraConfig = Field(
        default_factory=lambda: LoraConfig(), description="What is trained beside the frozen base."
    )
