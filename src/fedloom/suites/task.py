"""A task: one YAML file that says where its examples come from, how they are phrased, and what is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, model_validator

from fedloom.errors import nearest
from fedloom.recipe.base import Config
from fedloom.suites.items import Item

SUITES = ("general", "finance", "medical", "mathematics", "code", "open_ended")


class Hub(Config):
    """One split of a data set of the hub."""

    path: str = Field(description="Its id, owner/name.")
    name: str | None = Field(None, description="Its subset.")
    split: str = Field(description="Its split.")


class Task(Config):
    """What all kinds of tasks have in common; each kind adds keys of its own."""

    # What a kind can measure.
    MEASURES: ClassVar[tuple[str, ...]] = ()

    name: str = Field(description="The file's name.")
    title: str = Field(description="As people call it.")
    suite: Literal["general", "finance", "medical", "mathematics", "code", "open_ended"] = Field(
        description="The suite it belongs to."
    )
    paper: str = Field(description="Where it was published.")
    kind: str = Field(description="How the model is asked: choice, answer, program or dialogue.")
    files: list[str] = Field(min_length=1, description="Looked for below --data, also compressed or not.")
    given: str | None = Field(None, description="Of a file that everybody has to bring along: what its records hold.")
    hub: list[Hub] = Field([], description="Where --hub reads it from, one entry for each file.")
    reader: str = Field(description="The function that turns records into items.")
    categories: list[str] = Field([], description="Only items of these categories; default: all.")
    groups: dict[str, list[str]] = Field({}, description="Categories that are also summed up together.")
    prompt: str = Field(description="A Jinja template over an item's fields.")
    measures: list[str] = Field(min_length=1, description="The first is the score.")
    deviations: str = Field(description="In what it differs from the original.")

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        for measure in self.measures:
            if self.MEASURES and measure not in self.MEASURES:
                close = nearest(measure, self.MEASURES)
                hint = f"; did you mean {close!r}?" if close else ""
                raise ValueError(f"measures: {measure!r} is not one of: {', '.join(self.MEASURES)}{hint}")
        if self.hub and len(self.hub) != len(self.files):
            raise ValueError("hub has an entry for each of files")
        return self

    @property
    def score(self) -> str:
        """The measure that is the task's score."""
        return self.measures[0]

    def prompt_of(self, item: Item, **more: Any) -> str:
        """An item's prompt.

        Args:
            item: of this task.
            more: further values for the template.

        Returns:
            The text.
        """
        return render(self.prompt, {**item.fields, **more})

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that the file says."""
        return json_digest(self.model_dump())


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill in a template; a name that is not there is an error, never an empty text.

    Args:
        template: Jinja; a line break at its end is not part of it.
        values: by name.

    Returns:
        The text.
    """
    return _compiled(template).render(values)


def json_digest(values: Any) -> str:
    """SHA-256, in hexadecimal, of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@cache
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template)
