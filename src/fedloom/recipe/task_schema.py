"""The task section of a recipe: what is learnt, and what the data must hold for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedloom.recipe.preference_schema import PREFERENCE_OPTIONS, PreferenceOptions, check_preferences

if TYPE_CHECKING:
    from fedloom.recipe.data_schema import DataConfig
    from fedloom.recipe.schema import Recipe

_PLACES = ("{text}", "{pair}", "{mask}")
_OPTIONS = {"classification": ("head", "labels", "words", "pattern"), "dpo": PREFERENCE_OPTIONS}
_OTHER_FORMS = {
    "class": ("text and label belong", "classification"),
    "pair": ("two answers belong", "dpo"),
    "judged": ("desirable belongs", "dpo"),
}


class TaskConfig(PreferenceOptions):
    """What is learnt: to answer in text (sft), which class a text belongs to, or which answers are preferred (dpo)."""

    kind: Literal["sft", "classification", "dpo"] = Field(
        "sft",
        description="sft: supervised fine-tuning on the response tokens; classification: the class of a text, or of a "
        "pair of texts; dpo: preferences among answers, by the loss that the key loss names.",
    )
    head: Literal["linear", "label_words"] | None = Field(
        None,
        description="Of classification. linear (its default): a trained layer on top, as transformers' models for "
        "sequence classification have it; label_words: the frozen language model's choice among words.",
    )
    labels: list[str] | None = Field(
        None,
        description="Of classification: the values of the label field in the classes' order; default: all that the "
        "records hold, sorted (as numbers where all are).",
    )
    words: list[str] | None = Field(
        None, description="Of label_words: one word, which must be one token, for each label, in the labels' order."
    )
    pattern: str | None = Field(
        None,
        description="Of label_words: the words around a text, with {text}, {mask} (where the label's word belongs; at "
        "the end for causal models) and, for pairs, {pair}.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_head(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "classification" and values.get("head") is None:
            return {**values, "head": "linear"}
        return values

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_text(cls, value: Any) -> Any:
        # As the records' values are compared: 0 and "0" are one label.
        if not isinstance(value, list):
            return value
        return [
            str(one).lower() if isinstance(one, bool) else str(one) if isinstance(one, int) else one for one in value
        ]

    @field_validator("labels", "words")
    @classmethod
    def _different(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(value) < 2:
            raise ValueError(f"a classification has at least two classes, got {len(value)}")
        if value is not None and len(set(value)) < len(value):
            twice = next(one for place, one in enumerate(value) if one in value[:place])
            raise ValueError(f"{twice!r} stands there twice: every class needs one of its own")
        if value is not None and not all(one.strip() for one in value):
            raise ValueError("holds an empty text")
        return value

    @field_validator("pattern")
    @classmethod
    def _has_places(cls, value: str | None) -> str | None:
        if value is None:
            return value
        unknown = [name for name in re.findall(r"\{[^{}]*\}", value) if name not in _PLACES]
        if unknown:
            raise ValueError(f"{unknown[0]} is not one of {', '.join(_PLACES)}")
        for place in _PLACES:
            if value.count(place) != 1 and (place != "{pair}" or place in value):
                raise ValueError(f"needs {place} once, has it {value.count(place)} times")
        return value

    @model_validator(mode="after")
    def _has_effect(self) -> TaskConfig:
        for kind, names in _OPTIONS.items():
            for name in names:
                if self.kind != kind and getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect on kind {self.kind}: it belongs to {kind}")
        if self.kind != "classification":
            return self
        if self.head == "linear":
            for name in ("words", "pattern"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect on head linear: it belongs to label_words")
        else:
            for name in ("words", "pattern"):
                if getattr(self, name) is None:
                    raise ValueError(f"head label_words needs {name}")
            if self.labels is not None and self.words is not None and len(self.labels) != len(self.words):
                raise ValueError(f"words: {len(self.words)} words for {len(self.labels)} labels: one for each")
        return self


def check_task(recipe: Recipe) -> None:
    """Check that data and evaluation are those of the task.

    Args:
        recipe: its sections, each of them checked by itself.

    Raises:
        ValueError: for the first option that does not fit, with the reason.
    """
    if recipe.task.kind == "dpo":
        check_preferences(recipe)
        return
    data, classification = recipe.data, recipe.task.kind == "classification"
    if classification and data.checkable:
        raise ValueError("task.kind: classification needs records with labels, and pocket-tasks has answers in text")
    for key, fields in data.fields_in_use().items():
        if classification and fields.form != "class":
            raise ValueError(f"{key}: task.kind classification needs the fields text and label")
        if not classification and fields.form != "answer":
            names, kind = _OTHER_FORMS[fields.form]
            raise ValueError(
                f"{key}: {names} to task.kind {kind}, and it is sft, which needs prompt and response, or messages"
            )
    if not classification:
        return
    if data.template != type(data).model_fields["template"].default:
        raise ValueError(
            f"data.template: {data.template} has no effect on classification, whose texts stand as they are (head "
            "linear) or in task.pattern (head label_words)"
        )
    if recipe.evaluation.exact_match != "auto":
        raise ValueError(
            "evaluation.exact_match has no effect on classification, whose accuracy is always measured: leave it out"
        )
    if recipe.task.pattern is not None:
        _check_pairs(recipe.task.pattern, data)


def _check_pairs(pattern: str, data: DataConfig) -> None:
    for key, fields in data.fields_in_use().items():
        if ("{pair}" in pattern) != (fields.pair is not None):
            there = "has" if fields.pair is None else "lacks"
            named = "names no" if fields.pair is None else "names a"
            raise ValueError(f"task.pattern {there} {{pair}}, and {key} {named} field pair")
