"""The data section of a recipe: sources, partition, splits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedloom.recipe.base import Config, Fraction, PositiveInt
from fedloom.recipe.fields_schema import FieldsConfig

POCKET_TASKS = "pocket-tasks"


class SourceConfig(Config):
    """One source with what is its own: where several sources have different fields, or need words around them."""

    path: str = Field(min_length=1, description="A file, a folder or a hub id.")
    subset: str | None = Field(None, min_length=1, description="Of a hub id: the subset, e.g. main of openai/gsm8k.")
    name: str | None = Field(
        None, min_length=1, description="Its client's name, with partition files. Sources of one name are one client."
    )
    fields: FieldsConfig | None = Field(None, description="Default: data.fields.")
    instruction: str | None = Field(
        None, min_length=1, description="The same instruction for every record; the prompt field becomes its context."
    )
    examples: PositiveInt | None = Field(
        None, description="At most so many of its records, drawn by the recipe's seed; default: all."
    )


class PartitionByKey(Config):
    """One client per value of a field: the natural partition."""

    kind: Literal["by_key"] = Field(description="One client per value of a field.")
    key: str = Field(description="The field whose value names the client.")
    min_examples: int | None = Field(
        None, ge=2, description="Clients with fewer records are left out; default: none is."
    )


class PartitionIid(Config):
    """Records dealt to clients uniformly at random, in equal shares."""

    kind: Literal["iid"] = Field(description="Equal shares, at random.")
    clients: PositiveInt = Field(description="How many clients share the records.")


class PartitionDirichlet(Config):
    """Label skew: each value of a field is shared out by Dirichlet(alpha) proportions (arXiv 1909.06335)."""

    kind: Literal["dirichlet"] = Field(description="Label skew, drawn.")
    clients: PositiveInt = Field(description="How many clients share the records.")
    key: str = Field(description="The field whose values are skewed over the clients.")
    alpha: float = Field(0.5, gt=0, description="Small: each client sees few values. Large: all alike.")
    min_examples: PositiveInt = Field(3, description="Smallest client allowed; proportions are redrawn.")


class PartitionQuantity(Config):
    """Quantity skew: client sizes follow Dirichlet(alpha), contents are alike."""

    kind: Literal["quantity"] = Field(description="Size skew, drawn.")
    clients: PositiveInt = Field(description="How many clients share the records.")
    alpha: float = Field(0.5, gt=0, description="Small: sizes differ much. Large: all alike.")
    min_examples: PositiveInt = Field(3, description="Smallest client allowed.")


class PartitionLabelPrior(Config):
    """Label and size skew: a client draws a label prior of its own and its share of the records.

    The setting of the experiments of arXiv 2410.00131: priors from Dirichlet(1), sizes from Dirichlet(5).
    """

    kind: Literal["label_prior"] = Field(description="Every client with a prior over labels of its own, drawn.")
    clients: PositiveInt = Field(description="How many clients share the records.")
    key: str = Field(description="The field with the labels.")
    alpha: float = Field(1.0, gt=0, description="Of the priors. Small: each client has few labels. Large: all alike.")
    size_alpha: float | None = Field(
        5.0, gt=0, description="Of the clients' shares. Small: sizes differ much. null: equal sizes."
    )
    min_examples: PositiveInt = Field(3, description="Smallest client allowed; priors and shares are redrawn.")


class PartitionFiles(Config):
    """One client per source file (or per file of a source folder), or per name of a source."""

    kind: Literal["files"] = Field(description="One client per file.")


Partition = Annotated[
    PartitionByKey | PartitionIid | PartitionDirichlet | PartitionLabelPrior | PartitionQuantity | PartitionFiles,
    Field(discriminator="kind"),
]


class SplitConfig(Config):
    """How each client divides its own records, so that it is tested on its own distribution."""

    validation: Fraction = Field(0.1, description="Share of a client's records kept for validation.")
    test: Fraction = Field(0.1, description="Share of a client's records kept for testing.")
    key: str | None = Field(
        None, description="A field saying train, validation or test, used instead of the fractions."
    )

    @model_validator(mode="after")
    def _leaves_training(self) -> SplitConfig:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation + test = {self.validation + self.test:g} leaves nothing to train on")
        if self.key is not None and self.model_fields_set & {"validation", "test"}:
            raise ValueError("key takes the split from the records, so the fractions would have no effect")
        return self


class GlobalTestConfig(Config):
    """Records set aside before partitioning: a test set that belongs to no client."""

    where: dict[str, str | int | float | bool] | None = Field(
        None, min_length=1, description="Field values that mark the records, e.g. {client: -1}."
    )
    fraction: Fraction | None = Field(None, gt=0, description="Or: this share of all records, at random.")
    source: str | list[str] | None = Field(None, description="Or: a file of its own, with the same fields.")

    @model_validator(mode="after")
    def _one_way(self) -> GlobalTestConfig:
        given = [name for name in ("where", "fraction", "source") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of where, fraction, source; got {', '.join(given) or 'none'}")
        return self


class DataConfig(Config):
    """Where the text comes from, how it is phrased and who owns which part."""

    source: str | SourceConfig | list[str | SourceConfig] = Field(
        POCKET_TASKS,
        description="A file, a folder, a hub id, a section {path, ...} with what is its own, a list of these, or "
        "'pocket-tasks' (embedded).",
    )
    fields: FieldsConfig = Field(
        default_factory=lambda: FieldsConfig(prompt="prompt", response="response"),
        description="Which fields of a record hold prompt and answer.",
    )
    template: str = Field("chat", description="alpaca, chat (the tokenizer's), plain, or a Jinja file.")
    max_tokens: int = Field(512, ge=8, description="Longest example; what goes beyond is cut off.")
    partition: Partition = Field(
        default_factory=lambda: PartitionByKey(kind="by_key", key="client"),
        description="Which client owns which records.",
    )
    split: SplitConfig = Field(default_factory=lambda: SplitConfig(), description="How a client divides its records.")
    global_test: GlobalTestConfig | None = Field(
        None, description="Records set aside as a test set of no client; default: none."
    )
    unseen_clients: int = Field(0, ge=0, description="Clients held out of training and tested at the end.")
    category: str | None = Field(None, description="Field by which the global test is broken down.")

    @property
    def checkable(self) -> bool:
        """Whether the source's answers can be told right or wrong by comparing text."""
        return self.source in (POCKET_TASKS, [POCKET_TASKS])

    def sections(self) -> dict[str, SourceConfig]:
        """The sources that have a section of their own, by recipe key."""
        if isinstance(self.source, SourceConfig):
            return {"data.source": self.source}
        entries = self.source if isinstance(self.source, list) else []
        return {f"data.source.{at}": entry for at, entry in enumerate(entries) if isinstance(entry, SourceConfig)}

    def fields_of(self, source: SourceConfig | None) -> FieldsConfig:
        """Which fields hold what in a source's records.

        Args:
            source: its section, None where it has none.

        Returns:
            Its own fields, else those of all.
        """
        return self.fields if source is None or source.fields is None else source.fields

    def fields_in_use(self) -> dict[str, FieldsConfig]:
        """The mappings of fields that some source is read by, under their recipe keys."""
        sections = self.sections()
        own = {f"{key}.fields": section.fields for key, section in sections.items() if section.fields is not None}
        every = [self.source] if not isinstance(self.source, list) else self.source
        general = self.global_test is not None and self.global_test.source is not None
        return own if every and len(own) == len(every) and not general else {"data.fields": self.fields, **own}

    @model_validator(mode="after")
    def _sections_have_effect(self) -> DataConfig:
        sections = self.sections()
        for key, section in sections.items():
            if section.path == POCKET_TASKS:
                raise ValueError(f"{key}.path: {POCKET_TASKS} is complete in itself: give it as text, not as a section")
            if section.name is not None and self.partition.kind != "files":
                raise ValueError(
                    f"{key}.name has no effect on partition {self.partition.kind}: it names a client of kind files"
                )
            fields = self.fields_of(section)
            taken = [name for name in ("messages", "context", "text", "dialogue") if getattr(fields, name) is not None]
            if section.instruction is not None and fields.prompt is None and fields.chosen is not None:
                taken = ["chosen without a prompt"]
            if section.instruction is not None and taken:
                raise ValueError(
                    f"{key}.instruction: its context is the prompt field, so fields.{taken[0]} has no place"
                )
        if "data.fields" not in self.fields_in_use() and self.fields != FieldsConfig(
            prompt="prompt", response="response"
        ):
            raise ValueError("data.fields has no effect: every source has fields of its own")
        return self

    @model_validator(mode="after")
    def _has_effect(self) -> DataConfig:
        if self.checkable:
            fixed = FieldsConfig(prompt="prompt", response="response")
            if self.fields != fixed:
                raise ValueError("fields has no effect on pocket-tasks, whose fields are prompt and response")
        elif self.category is not None and self.global_test is None:
            raise ValueError("category breaks the global test down, and there is no global_test")
        return self
