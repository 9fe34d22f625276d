"""Sections federation.layers and local.sparse: which layers clients share, and what they train of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fedloom.recipe.adapter_schema import VirtualTokensConfig
from fedloom.recipe.base import Config, Fraction, PositiveInt

if TYPE_CHECKING:
    from fedloom.recipe.schema import Recipe

Share = Annotated[float, Field(gt=0, le=1)]
# Defaults of keys that only some choices have; all of them are ours.
DEFAULTS = {"noise": 0.05, "examples": 32, "scale": 1.0, "warmup_steps": 10}


class LayersConfig(Config):
    """The layers whose adapter tensors are sent and aggregated, chosen once, before the first round.

    That a part of the layers is chosen by scores of all clients, weighted by their examples, and that clients keep
    the others to themselves is FedPepTAO's (arXiv 2310.15080) and FibecFed's (arXiv 2410.00131).
    """

    choose: Literal["importance", "similarity", "random", "lowest", "highest"] = Field(
        "importance",
        description="importance: the layers whose output moves most where the embeddings are perturbed against the "
        "answer (as in arXiv 2410.00131; the measure is our choice); similarity: the layers to "
        "which a client's examples are most alike, by FedPepTAO's score (arXiv 2310.15080, as in its published code); "
        "random: keyed by the seed; lowest: nearest to the input; highest: nearest to the output.",
    )
    share: Share | Literal["lossless"] | None = Field(
        None,
        description="Share of the layers (rounded up); 1: all, the neutral setting; lossless: as many as the spectra "
        "of the clients' losses ask for. Default: 0.5 (our choice), unless number says it.",
    )
    number: PositiveInt | None = Field(None, description="Number of layers, in place of share.")
    others: Literal["private", "frozen"] = Field(
        "private",
        description="The other layers: private, each client trains and keeps its own; frozen, nobody trains them.",
    )
    noise: float | None = Field(
        None, gt=0, description="Of importance: size of the perturbation relative to the embeddings'. Default: 0.05."
    )
    examples: PositiveInt | None = Field(
        None,
        description="Of importance, similarity and lossless: at most so many examples of each client. Default: 32.",
    )
    scale: float | None = Field(
        None, gt=0, description="Of lossless: the number of layers is multiplied by it (mu). Default: 1."
    )
    warmup_steps: PositiveInt | None = Field(
        None,
        description="Of lossless: steps that a client trains alone before it is measured. Default: 10.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        if "number" not in given:
            given.setdefault("share", 0.5)
        for key, default in DEFAULTS.items():
            if _has_effect(key, given.get("choose", "importance"), given.get("share")):
                given.setdefault(key, default)
        return given

    @model_validator(mode="after")
    def _have_effect(self) -> LayersConfig:
        if self.share is not None and self.number is not None:
            raise ValueError("share and number exclude each other: give one")
        owners = {
            "noise": "choose: importance",
            "examples": "choose: importance, choose: similarity and share: lossless",
            "scale": "share: lossless",
            "warmup_steps": "share: lossless",
        }
        for key, owner in owners.items():
            if getattr(self, key) is not None and not _has_effect(key, self.choose, self.share):
                raise ValueError(f"{key} has no effect on choose {self.choose!r} with this share: it is of {owner}")
        return self

    @property
    def lossless(self) -> bool:
        """Whether spectra say how many layers."""
        return self.share == "lossless"

    @property
    def all_layers(self) -> bool:
        """Whether all layers are chosen, whatever model it is: there is nothing to measure."""
        return self.share == 1


class SparseUpdatesConfig(Config):
    """Which neurons of its private layers a client trains: those with most Fisher information (arXiv 2410.00131).

    A neuron is a row of LoRA's B and a column of its A, and a row of any other tensor [our choice].
    """

    share: Share | Literal["lossless"] = Field(
        0.5,
        description="Share of the neurons of each private layer (rounded up); 1: all, the neutral setting; lossless: "
        "what each client's spectrum asks for, with federation.layers.share: lossless. The default is our choice.",
    )
    momentum: Fraction = Field(
        0.9, description="Of the Fisher information over a client's rounds; 0: the newest alone. Our default."
    )


def _has_effect(key: str, choose: Any, share: Any) -> bool:
    lossless = share == "lossless"
    if share == 1:
        return False
    effects: dict[str, bool] = {
        "noise": choose == "importance",
        "examples": choose in {"importance", "similarity"} or lossless,
        "scale": lossless,
        "warmup_steps": lossless,
    }
    return effects[key]


def check_layers(recipe: Recipe) -> None:
    """Check what federation.layers and local.sparse can't be combined with.

    Args:
        recipe: its sections, each of them checked by itself.

    Raises:
        ValueError: for the first combination that is refused.
    """
    federation, layers, sparse = recipe.federation, recipe.federation.layers, recipe.local.sparse
    if layers is not None:
        _check_chosen(recipe)
    if sparse is None:
        return
    if not federation.private and (layers is None or layers.others != "private"):
        raise ValueError(
            "local.sparse has no effect: it is about what clients keep to themselves; give federation.layers with "
            "others: private, or federation.private"
        )
    if sparse.share == "lossless" and (layers is None or not layers.lossless):
        raise ValueError(
            "local.sparse.share: lossless takes the clients' spectra from federation.layers.share: lossless; give a "
            "number, or both"
        )
    if recipe.federation.algorithm.name == "fedsa_lora" and sparse.share != 1:
        raise ValueError("local.sparse: with fedsa_lora every B is private, and there are no private layers")


def _check_chosen(recipe: Recipe) -> None:
    # Not at the top: the algorithms import torch, which takes seconds.
    from fedloom.aggregation.registry import algorithm_class

    federation, layers = recipe.federation, recipe.federation.layers
    assert layers is not None
    name = federation.algorithm.name
    algorithm = algorithm_class(name)
    if federation.private:
        raise ValueError("federation.layers: federation.private says already what stays with clients; give one")
    if algorithm.personal_adapters:
        raise ValueError(f"federation.layers: with {name} each client has a whole adapter of its own already")
    if name == "fed_sb":
        raise ValueError("federation.layers: fed_sb trains one small matrix of every layer, for all clients")
    if algorithm.shared != "both":
        raise ValueError(f"federation.layers: {name} says itself what stays with clients")
    kind = recipe.model.adapter
    if isinstance(kind, VirtualTokensConfig):
        raise ValueError(f"federation.layers: the tensors of {kind.kind} belong to no single layer")
    if layers.others == "private" and any(baseline.kind == "fine_tuned" for baseline in recipe.baselines):
        raise ValueError("baselines: fine_tuned has no effect of its own where clients keep a part of the adapter")
