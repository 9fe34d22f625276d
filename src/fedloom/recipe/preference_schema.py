"""Learning from preferences: the options of task.kind dpo, and what the rest of a recipe must say for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from fedloom.recipe.base import Config
from fedloom.recipe.curriculum_schema import MEASURED

if TYPE_CHECKING:
    from fedloom.recipe.schema import Recipe

# What each loss takes beside beta, and its default.
_OPTIONS: dict[str, dict[str, float]] = {
    "sigmoid": {"label_smoothing": 0.0},
    "ipo": {},
    "kto": {"desirable_weight": 1.0, "undesirable_weight": 1.0},
    "orpo": {},
    "simpo": {"margin": 1.0},
}
_OWNERS = {name: loss for loss, options in _OPTIONS.items() for name in options}
PREFERENCE_OPTIONS = ("loss", "beta", *_OWNERS)
# These compare with nothing but the model itself.
REFERENCE_FREE = ("orpo", "simpo")
# SimPO's rewards are means over tokens, not sums: its paper's beta is 2 to 2.5, its margin 0.3 to 1.6.
_SIMPO_BETA, _BETA = 2.0, 0.1


class PreferenceOptions(Config):
    """How preferences are learnt; every option is None for other tasks and for losses that have no use for it."""

    loss: Literal["sigmoid", "ipo", "kto", "orpo", "simpo"] | None = Field(
        None,
        description="Of dpo. sigmoid (its default): DPO (arXiv 2305.18290); ipo: IPO (arXiv 2310.12036); kto: KTO, on "
        "single answers (arXiv 2402.01306); orpo: ORPO (arXiv 2403.07691) and simpo: SimPO (arXiv 2405.14734), both "
        "without a reference.",
    )
    beta: float | None = Field(
        None,
        gt=0,
        description="Of dpo: scale of the rewards, for ipo the paper's tau, for orpo its lambda; default: 0.1, for "
        "simpo 2.",
    )
    label_smoothing: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="Of loss sigmoid: probability that a preference is the wrong way round (conservative DPO); "
        "default: 0.",
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="Of loss simpo: the paper's gamma, by which the better reward is to be ahead; default: 1.",
    )
    desirable_weight: float | None = Field(
        None, gt=0, description="Of loss kto: weight of desirable answers, the paper's lambda_D; default: 1."
    )
    undesirable_weight: float | None = Field(
        None, gt=0, description="Of loss kto: weight of undesirable answers, the paper's lambda_U; default: 1."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_options(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kind") != "dpo":
            return values
        given = {name: value for name, value in values.items() if value is not None}
        loss = given.setdefault("loss", "sigmoid")
        given.setdefault("beta", _SIMPO_BETA if loss == "simpo" else _BETA)
        return {**(_OPTIONS.get(loss, {}) if isinstance(loss, str) else {}), **given}

    @model_validator(mode="after")
    def _options_have_effect(self) -> PreferenceOptions:
        for name, owner in _OWNERS.items():
            if self.loss is not None and self.loss != owner and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect on loss {self.loss}: it belongs to {owner}")
        return self

    @property
    def pairs_are_split(self) -> bool:
        """Whether the two answers of a pair are two examples, one desirable and one not."""
        return self.loss == "kto"


def check_preferences(recipe: Recipe) -> None:
    """Check that data, training and evaluation are those of preferences.

    Args:
        recipe: its sections, each of them checked by itself; its task.kind is dpo.

    Raises:
        ValueError: for the first option that does not fit, with the reason.
    """
    loss = recipe.task.loss
    if recipe.data.checkable:
        raise ValueError("task.kind: dpo needs preferences among answers, and pocket-tasks has one answer each")
    for key, fields in recipe.data.fields_in_use().items():
        if fields.form == "judged" and loss != "kto":
            raise ValueError(
                f"{key}.desirable: loss {loss} compares two answers to a prompt, and a record has one; its loss is kto"
            )
        if fields.form not in ("pair", "judged"):
            raise ValueError(
                f"{key}: task.kind dpo needs chosen and rejected, or response_a, response_b and preferred"
                + (", or desirable beside an answer" if loss == "kto" else "")
            )
    if recipe.evaluation.exact_match != "auto":
        raise ValueError("evaluation.exact_match has no effect on preferences, which name no answer as the right one")
    curriculum = recipe.local.curriculum
    if curriculum is not None and curriculum.difficulty in MEASURED:
        raise ValueError(
            f"local.curriculum.difficulty: {curriculum.difficulty} is measured on the labels of single answers, not on "
            "preferences; length, random and {column: NAME} go with task.kind dpo"
        )
    if curriculum is not None and loss == "kto":
        raise ValueError(
            "local.curriculum: loss kto puts every answer after the prompt of another of the client's examples, and "
            "which those are would change from round to round"
        )
    for key, given in (("local.pruning", recipe.local.pruning), ("local.sparse", recipe.local.sparse)):
        if given is not None:
            raise ValueError(f"{key}: what matters to a client is measured on single answers, not on preferences")
    layers = recipe.federation.layers
    if layers is not None and not layers.all_layers and (layers.choose in ("importance", "change") or layers.lossless):
        raise ValueError("federation.layers: layers are measured on the labels of single answers, not on preferences")
    if recipe.model.adapter.kind == "full" and loss not in REFERENCE_FREE:
        raise ValueError(
            f"model.adapter.kind: full fine-tuning changes the base itself, which loss {loss} needs as its reference; "
            f"it goes with {' and '.join(REFERENCE_FREE)}"
        )
