"""The adapter section of a recipe: one config for each kind, with the keys that have an effect on it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

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


class AdapterKind(Config):
    """What all kinds of adapters have in common: a name."""

    kind: str


class Startable(AdapterKind):
    """A kind whose first adapter need not be drawn: it can be one that was trained before."""

    start: str | None = Field(
        None,
        description="A folder with an adapter that training starts from, of this kind, rank and targets: a run's "
        "`adapter`, or PEFT's. For lora and rslora also one of kind sparse. Default: a fresh one.",
    )


class InLayers(Startable):
    """A kind that lives in decoder layers."""

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Numbers of the decoder layers that get one, from 0 at the input; default: all."
    )

    @field_validator("layers")
    @classmethod
    def _some_layers(cls, layers: list[int] | None) -> list[int] | None:
        if layers == []:
            raise ValueError("needs at least one number; leave it out for all layers")
        return layers


class OnLinearLayers(InLayers):
    """A kind that lives on chosen linear layers."""

    targets: list[str] | Literal["all-linear"] = Field(
        default=["q_proj", "v_proj"],
        description="Names of the linear layers that get an adapter, or all-linear (all but the output head).",
    )

    @field_validator("targets")
    @classmethod
    def _some_targets(cls, targets: list[str] | str) -> list[str] | str:
        if not targets:
            raise ValueError("needs at least one layer name, or all-linear")
        return targets


class LowRank(OnLinearLayers):
    """A product of two factors beside each layer, times a scale: what algorithms made for LoRA know."""

    rank: PositiveInt | list[RankGroup] = Field(
        8, description="Inner size r of the factors A [r, in] and B [out, r]; or groups of clients with their own."
    )
    alpha: float = Field(16.0, gt=0, description="The adapter's output is scaled by alpha / (largest) rank.")

    @property
    def largest_rank(self) -> int:
        """The rank of the adapter that the server holds."""
        return self.rank if isinstance(self.rank, int) else max(group.rank for group in self.rank)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.largest_rank

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

    @model_validator(mode="after")
    def _start_of_one_rank(self) -> LowRank:
        if self.start is not None and not isinstance(self.rank, int):
            raise ValueError(
                "start: needs one rank for all clients: the first rows of trained factors, which clients of lower "
                "ranks would be sent, are no approximation of the adapter"
            )
        return self


class LoraConfig(LowRank):
    """Low-rank adapters (LoRA, arXiv 2106.09685) on chosen linear layers."""

    kind: Literal["lora"] = Field("lora", description="Low-rank matrices beside frozen layers.")


class RsLoraConfig(LowRank):
    """Rank-stabilised LoRA (arXiv 2312.03732): the scale falls with the square root of the rank only."""

    kind: Literal["rslora"] = Field("rslora", description="LoRA scaled by alpha / sqrt(rank).")
    alpha: float = Field(16.0, gt=0, description="The adapter's output is scaled by alpha / sqrt((largest) rank).")

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / math.sqrt(self.largest_rank)


class DoraConfig(OnLinearLayers):
    """Weight-decomposed LoRA (DoRA, arXiv 2402.09353): LoRA turns a layer's rows, magnitudes give their size."""

    kind: Literal["dora"] = Field("dora", description="LoRA for the direction, a vector for the size of each row.")
    rank: PositiveInt = Field(8, description="Inner size r of the factors A [r, in] and B [out, r].")
    alpha: float = Field(16.0, gt=0, description="The product of the factors is scaled by alpha / rank.")

    @field_validator("rank", mode="before")
    @classmethod
    def _one_rank(cls, rank: Any) -> Any:
        if isinstance(rank, list):
            raise ValueError("algorithms for clients of different ranks need kind lora or rslora; dora has one rank")
        return rank


class Ia3Config(OnLinearLayers):
    """Learnt factors for single activations ((IA)^3, arXiv 2205.05638)."""

    kind: Literal["ia3"] = Field("ia3", description="A factor for each output, or input, of chosen linear layers.")
    targets: list[str] | Literal["all-linear"] = Field(
        default=["k_proj", "v_proj", "down_proj"],
        description="Names of the linear layers whose outputs are scaled, or all-linear (all but the output head).",
    )
    feedforward: list[str] = Field(
        default=["down_proj"], description="Those of the targets whose inputs are scaled instead of their outputs."
    )

    @model_validator(mode="after")
    def _are_targets(self) -> Ia3Config:
        for name in self.feedforward if self.targets != "all-linear" else []:
            if name not in self.targets:
                raise ValueError(f"feedforward: {name!r} has no effect, as it is none of the targets")
        return self


class BitFitConfig(OnLinearLayers):
    """Trained biases (BitFit, arXiv 2106.10199), of layers without a bias as well."""

    kind: Literal["bitfit"] = Field("bitfit", description="A vector added to the output of chosen linear layers.")
    targets: list[str] | Literal["all-linear"] = Field(
        default="all-linear",
        description="Names of the linear layers that get a bias, or all-linear (all but the output head).",
    )


class BottleneckConfig(InLayers):
    """Small two-layer networks between the base's layers (arXiv 1902.00751, 2005.00247)."""

    kind: Literal["bottleneck"] = Field("bottleneck", description="Two-layer networks after a decoder layer's blocks.")
    size: PositiveInt = Field(16, description="Units of the hidden layer.")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("relu", description="Of the hidden layer.")
    after_attention: bool = Field(
        False, description="Also after attention (arXiv 1902.00751), not only after the MLP (arXiv 2005.00247)."
    )


class SparseConfig(OnLinearLayers):
    """A few entries of each weight, drawn before training (the first stage of SLoRA, arXiv 2308.06522)."""

    kind: Literal["sparse"] = Field("sparse", description="Changes of a drawn share of the entries of weights.")
    share: float = Field(0.01, gt=0, le=1, description="Of each target's entries, how many are trained.")
    mask_seed: int = Field(0, ge=0, description="Which entries: drawn with it, so that positions need not be sent.")


class FullConfig(AdapterKind):
    """Full fine-tuning: every parameter of the base model is trained, in fp32."""

    kind: Literal["full"] = Field("full", description="The whole model, one client after another.")


class VirtualTokensConfig(Startable):
    """Something trained that takes the places of tokens before the text; it counts against the model's positions."""

    virtual_tokens: PositiveInt = Field(20, description="Places before the text.")


class PromptTuningConfig(VirtualTokensConfig):
    """Trained vectors before the embedded prompt (prompt tuning, arXiv 2104.08691)."""

    kind: Literal["prompt_tuning"] = Field("prompt_tuning", description="Virtual tokens before every prompt.")


class PTuningConfig(VirtualTokensConfig):
    """Virtual tokens that a small network makes (P-tuning, arXiv 2103.10385)."""

    kind: Literal["p_tuning"] = Field("p_tuning", description="Virtual tokens from a trained encoder.")
    hidden_size: PositiveInt = Field(128, description="Units of the encoder's hidden layers.")


class PrefixTuningConfig(VirtualTokensConfig):
    """Trained keys and values before those of the prompt, in every layer (prefix tuning, arXiv 2101.00190)."""

    kind: Literal["prefix_tuning"] = Field("prefix_tuning", description="Virtual keys and values in every layer.")


AdapterConfig = Annotated[
    LoraConfig
    | RsLoraConfig
    | DoraConfig
    | Ia3Config
    | BitFitConfig
    | BottleneckConfig
    | SparseConfig
    | FullConfig
    | PromptTuningConfig
    | PTuningConfig
    | PrefixTuningConfig,
    Field(discriminator="kind"),
]


def kind_configs() -> dict[str, type[AdapterKind]]:
    """The config of each kind, by the name that a recipe gives it."""
    configs: tuple[type[AdapterKind], ...] = get_args(get_args(AdapterConfig)[0])
    return {config.model_fields["kind"].default: config for config in configs}
