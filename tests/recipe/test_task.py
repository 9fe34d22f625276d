"""The task section: what belongs to which task, and what other sections must say for it."""

from __future__ import annotations

from typing import Any

import pytest

from fedloom.errors import UserError
from fedloom.recipe import Recipe, load_recipe, recipe_yaml, validate_recipe
from fedloom.recipe.loading import parse_recipe

FIELDS = {"text": "sentence", "label": "label"}
WORDS = {"kind": "classification", "head": "label_words", "words": ["bad", "good"], "pattern": "{text} It was {mask}."}


def recipe(task: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return {
        "task": {"kind": "classification"} if task is None else task,
        "data": {"source": "rows.jsonl", "fields": FIELDS, **(data or {})},
        **sections,
    }


@pytest.mark.parametrize(
    "task", [None, WORDS, {"kind": "classification", "labels": [1, 0]}], ids=["linear", "words", "labels"]
)
@pytest.mark.parametrize("size_alpha", [5.0, None])
def test_a_resolved_recipe_means_the_same(task: dict[str, Any] | None, size_alpha: float | None) -> None:
    partition = {"kind": "label_prior", "clients": 9, "key": "label", "size_alpha": size_alpha}
    made = validate_recipe(recipe(task, {"partition": partition}))
    assert parse_recipe(recipe_yaml(made)) == made
    assert made.data.partition.size_alpha == size_alpha  # type: ignore[union-attr]


def test_the_default_is_supervised_fine_tuning() -> None:
    assert Recipe().task.model_dump(exclude_none=True) == {"kind": "sft"}


def test_a_classification_has_a_linear_head_and_is_told_right_or_wrong() -> None:
    made = validate_recipe(recipe())
    assert made.task.head == "linear"
    assert made.measures_accuracy
    assert not validate_recipe({"data": {"source": "rows.jsonl"}}).measures_accuracy


def test_labels_are_compared_as_text() -> None:
    task = {"kind": "classification", "labels": [2, True, "no"]}
    assert validate_recipe(recipe(task)).task.labels == ["2", "true", "no"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (recipe({"kind": "classify"}), "task.kind: 'classify' is not one of: sft, classification"),
        (recipe({"kind": "sft", "labels": ["a", "b"]}), "task: labels has no effect on kind sft"),
        (recipe({"kind": "classification", "words": ["a", "b"]}), "task: words has no effect on head linear"),
        (recipe({"kind": "classification", "pattern": "{text} {mask}"}), "task: pattern has no effect on head linear"),
        (recipe({**WORDS, "words": None}), "task: head label_words needs words"),
        (recipe({**WORDS, "pattern": None}), "task: head label_words needs pattern"),
        (recipe({**WORDS, "labels": ["a", "b", "c"]}), "task: words: 2 words for 3 labels"),
        (recipe({**WORDS, "words": ["good", "good"]}), "task.words: 'good' stands there twice"),
        (recipe({**WORDS, "words": ["good"]}), "task.words: a classification has at least two classes, got 1"),
        (recipe({**WORDS, "pattern": "It was {mask}."}), "task.pattern: needs {text} once, has it 0 times"),
        (recipe({**WORDS, "pattern": "{text} {mask} {mask}"}), "task.pattern: needs {mask} once, has it 2 times"),
        (recipe({**WORDS, "pattern": "{text} {mask} {txt}"}), "task.pattern: {txt} is not one of {text}, "),
        (recipe({**WORDS, "pattern": "{text} {mask}, {pair}"}), "task.pattern has {pair}, and data.fields names no"),
        (recipe(WORDS, {"fields": {**FIELDS, "pair": "b"}}), "task.pattern lacks {pair}, and data.fields names a"),
        (recipe({"kind": "classification", "labels": ["a", ""]}), "task.labels: holds an empty text"),
        (recipe(data={"fields": {"text": "a"}}), "data.fields: classification needs text and label"),
        (recipe(data={"fields": {**FIELDS, "prompt": "q"}}), "data.fields: text, pair and label exclude all other"),
        (recipe(data={"fields": {"prompt": "q", "response": "a"}}), "data.fields: task.kind classification needs"),
        (recipe({"kind": "sft"}), "data.fields: text and label belong to task.kind classification"),
        (
            {"task": {"kind": "classification"}},
            "task.kind: classification needs records with labels, and pocket-tasks has answers in text",
        ),
        (recipe(data={"template": "plain"}), "data.template: plain has no effect on classification"),
        (recipe(evaluation={"exact_match": True}), "evaluation.exact_match has no effect on classification"),
        (recipe(evaluation={"exact_match": False}), "evaluation.exact_match has no effect on classification"),
        (
            recipe(data={"source": {"path": "x", "instruction": "Is it good?"}}),
            "data.source.instruction: its context is the prompt field, so fields.text has no place",
        ),
        (
            recipe(data={"source": [{"path": "x", "fields": {"prompt": "q", "response": "a"}}, "y"]}),
            "data.source.0.fields: task.kind classification needs the fields text and label",
        ),
        (recipe(data={"partition": {"kind": "label_prior", "clients": 2, "key": "k", "alpha": 0.0}}), "alpha"),
    ],
)
def test_what_does_not_belong_together_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        validate_recipe(values)
    assert told in str(error.value)


def test_sources_of_different_forms_may_each_name_their_fields() -> None:
    pairs = {"path": "mrpc.jsonl", "fields": {"text": "a", "pair": "b", "label": "same"}}
    made = validate_recipe({"task": {"kind": "classification"}, "data": {"source": [pairs]}})
    assert made.data.fields_in_use() == {"data.source.0.fields": made.data.sections()["data.source.0"].fields}


def test_a_task_can_be_set_on_the_command_line() -> None:
    made = load_recipe(recipe(), ["task.labels=[negative, positive]"])
    assert made.task.labels == ["negative", "positive"]


@pytest.mark.parametrize("measure", ["accuracy", "macro_f1", "matthews"])
def test_a_run_may_end_at_any_measure_of_a_classification(measure: str) -> None:
    stop = {"target": {"measure": measure, "value": 0.5}}
    sections = {"federation": {"stop": stop}, "evaluation": {"every": 1}}
    target = validate_recipe(recipe(**sections)).federation.stop.target  # type: ignore[union-attr]
    assert target is not None
    assert target.measure == measure
    with pytest.raises(UserError, match="is not measured here"):
        validate_recipe({"data": {"source": "rows.jsonl"}, **sections})
    with pytest.raises(UserError, match="not above 0 and at most 1"):
        validate_recipe(recipe(federation={"stop": {"target": {"measure": measure, "value": 1.5}}}))
