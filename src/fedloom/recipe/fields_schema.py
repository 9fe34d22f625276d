"""The fields section of a recipe: which fields of a record hold what, in one of a few forms."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from fedloom.recipe.base import Config

# What a record is: an answer to learn, a text with its class, two answers of which one is preferred, or one answer
# that is desirable or not.
Form = Literal["answer", "class", "pair", "judged"]
_FORMS = (
    "prompt and response, or messages, or (for classification) text and label, or (for preferences) chosen and "
    "rejected, or response_a, response_b and preferred"
)


class FieldsConfig(Config):
    """Which fields of a record hold what: an answer, the class of a text, or preferences among answers."""

    prompt: str | None = Field(None, description="Field with the instruction or question.")
    context: str | None = Field(None, description="Field with further input to the prompt; may be empty.")
    response: str | None = Field(None, description="Field with the answer the model is to learn.")
    system: str | None = Field(None, description="Field with a system message; may be empty.")
    messages: str | None = Field(
        None, description="Field with a conversation: a list of {role, content} or {from, value} objects."
    )

    text: str | None = Field(None, description="Of classification: field with the text whose class is learnt.")
    pair: str | None = Field(None, description="Of classification: field with a second text, where pairs are classed.")
    label: str | None = Field(None, description="Of classification: field with the class, as text or number.")

    chosen: str | None = Field(
        None,
        description="Of preferences: field with the better answer to the prompt; without a prompt, a conversation that "
        "ends with it.",
    )
    rejected: str | None = Field(None, description="Of preferences: field with the worse answer, as chosen.")
    response_a: str | None = Field(None, description="Of preferences: field with the first of two answers.")
    response_b: str | None = Field(None, description="Of preferences: field with the second of two answers.")
    preferred: str | list[str] | None = Field(
        None,
        description="Of response_a and response_b: field that says which is better: 1 or a, 2 or b; 0, tie or nothing "
        "leaves the record out. Several, one for each annotator: each makes a record of its own, with the field's name "
        "in the new field annotator.",
    )
    desirable: str | None = Field(
        None,
        description="Of preferences with loss kto: field that says whether the answer is desirable: true or false, yes "
        "or no, 1 or 0.",
    )
    dialogue: Literal["hh"] | None = Field(
        None,
        description="hh: conversations are texts as in HH-RLHF, whose turns begin with '\\n\\nHuman:' and "
        "'\\n\\nAssistant:'; with a prompt, the text is the prompt and the answer together.",
    )

    @field_validator("preferred")
    @classmethod
    def _different(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list):
            if len(value) < 2:
                raise ValueError(f"a list names two annotators or more, this one {len(value)}; a single one is text")
            if len(set(value)) < len(value):
                twice = next(one for place, one in enumerate(value) if one in value[:place])
                raise ValueError(f"{twice!r} stands there twice")
        return value

    @property
    def form(self) -> Form:
        """What a record is read as."""
        if self.text is not None:
            return "class"
        if self.chosen is not None or self.preferred is not None:
            return "pair"
        return "judged" if self.desirable is not None else "answer"

    @property
    def annotators(self) -> list[str]:
        """The fields of annotators, each of whom has a record of its own; empty where there are none."""
        return self.preferred if isinstance(self.preferred, list) else []

    @model_validator(mode="after")
    def _one_form(self) -> FieldsConfig:
        if self._names("text", "pair", "label"):
            if len(self.model_dump(exclude_none=True)) > len(self._names("text", "pair", "label")):
                raise ValueError("text, pair and label exclude all other fields: a record has one form")
            if self.text is None or self.label is None:
                raise ValueError("classification needs text and label")
        elif self._names("chosen", "rejected", "response_a", "response_b", "preferred"):
            self._check_pair()
        elif self.messages is not None:
            if self.prompt or self.context or self.response:
                raise ValueError("messages excludes prompt, context and response: a record has one form")
        elif self.prompt is None or self.response is None:
            raise ValueError(f"needs {_FORMS}")
        if self.dialogue is not None and self.context is not None:
            raise ValueError("context has no place in a dialogue: it belongs to a prompt that is no dialogue")
        return self

    def _check_pair(self) -> None:
        given = self._names("chosen", "rejected")
        labelled = self._names("response_a", "response_b", "preferred")
        other = self._names("response", "messages", "desirable")
        if other:
            raise ValueError(
                f"{other[0]} belongs to records with one answer, {(given + labelled)[0]} to those with two"
            )
        if given and labelled:
            raise ValueError(f"{given[0]} and {labelled[0]} exclude each other: a record has one form")
        if len(given) == 1:
            raise ValueError("chosen and rejected go together")
        if labelled and (len(labelled) < 3 or self.prompt is None):
            raise ValueError("response_a, response_b and preferred go together, with a prompt")
        if self.context is not None and self.prompt is None:
            raise ValueError("context has no effect without a prompt")

    def _names(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]
