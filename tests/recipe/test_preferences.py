"""The task dpo: what belongs to which loss, which forms of records it takes, and what it can't be combined with."""

from __future__ import annotations

from typing import Any

import pytest

from fedloom.errors import UserError
from fedloom.recipe import load_recipe, recipe_yaml, validate_recipe
from fedloom.recipe.fields_schema import FieldsConfig
from fedloom.recipe.loading import parse_recipe

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
JUDGED = {"prompt": "p", "response": "a", "desirable": "d"}
LABELLED = {"prompt": "p", "response_a": "a", "response_b": "b", "preferred": ["x", "y"]}
DEFAULTS = {
    "sigmoid": {"beta": 0.1, "label_smoothing": 0.0},
    "ipo": {"beta": 0.1},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "orpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "margin": 1.0},
}


def recipe(task: dict[str, Any] | None = None, fields: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    data = {"source": "rows.jsonl", "fields": fields or PAIR}
    return {"task": {"kind": "dpo", **(task or {})}, "data": data, **sections}


@pytest.mark.parametrize("loss", DEFAULTS)
def test_a_resolved_recipe_means_the_same(loss: str) -> None:
    made = validate_recipe(recipe({"loss": loss}))
    assert made.task.model_dump(exclude_none=True) == {"kind": "dpo", "loss": loss, **DEFAULTS[loss]}
    assert parse_recipe(recipe_yaml(made)) == made
    assert made.task.pairs_are_split == (loss == "kto")


def test_the_default_loss_is_dpo() -> None:
    assert validate_recipe(recipe()) == validate_recipe(recipe({"loss": "sigmoid", "beta": 0.1, "label_smoothing": 0}))


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        (PAIR, "pair"),
        ({"chosen": "c", "rejected": "r", "dialogue": "hh", "system": "s"}, "pair"),
        (LABELLED, "pair"),
        (JUDGED, "judged"),
        ({"messages": "m", "desirable": "d"}, "judged"),
        ({"messages": "m", "dialogue": "hh"}, "answer"),
        ({"text": "t", "label": "l"}, "class"),
    ],
)
def test_fields_have_one_form(fields: dict[str, Any], form: str) -> None:
    assert FieldsConfig(**fields).form == form


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (recipe({"loss": "sigmod"}), "task.loss: 'sigmod' is not one of: sigmoid, ipo, kto, orpo, simpo"),
        (recipe({"beta": 0}), "task.beta: "),
        (recipe({"label_smoothing": 0.5}), "task.label_smoothing: "),
        (recipe({"margin": 1.0}), "task: margin has no effect on loss sigmoid: it belongs to simpo"),
        (recipe({"loss": "ipo", "label_smoothing": 0.1}), "label_smoothing has no effect on loss ipo"),
        (recipe({"loss": "orpo", "desirable_weight": 2.0}), "desirable_weight has no effect on loss orpo"),
        (recipe({"labels": ["a", "b"]}), "task: labels has no effect on kind dpo: it belongs to classification"),
        (
            {"task": {"kind": "sft", "beta": 0.1}, "data": {"source": "rows.jsonl"}},
            "task: beta has no effect on kind sft: it belongs to dpo",
        ),
        (
            {"task": {"kind": "sft"}, "data": {"source": "r.jsonl", "fields": PAIR}},
            "two answers belong to task.kind dpo",
        ),
        ({"data": {"source": "r.jsonl", "fields": JUDGED}}, "desirable belongs to task.kind dpo"),
        (recipe(fields={"prompt": "p", "response": "a"}), "data.fields: task.kind dpo needs chosen and rejected"),
        (recipe(fields={"text": "t", "label": "l"}), "data.fields: task.kind dpo needs chosen and rejected"),
        (recipe(fields=JUDGED), "data.fields.desirable: loss sigmoid compares two answers to a prompt"),
        ({"task": {"kind": "dpo"}}, "dpo needs preferences among answers, and pocket-tasks has one answer each"),
        (recipe(fields={"prompt": "p", "chosen": "c"}), "data.fields: chosen and rejected go together"),
        (
            recipe(fields={**PAIR, "response": "a"}),
            "response belongs to records with one answer, chosen to those with two",
        ),
        (recipe(fields={**PAIR, "preferred": "x"}), "chosen and preferred exclude each other"),
        (
            recipe(fields={**LABELLED, "prompt": None}),
            "response_a, response_b and preferred go together, with a prompt",
        ),
        (recipe(fields={**LABELLED, "preferred": ["x"]}), "a list names two annotators or more, this one 1"),
        (recipe(fields={**LABELLED, "preferred": ["x", "x"]}), "'x' stands there twice"),
        (recipe(fields={"chosen": "c", "rejected": "r", "context": "x"}), "context has no effect without a prompt"),
        (recipe(fields={**PAIR, "context": "x", "dialogue": "hh"}), "context has no place in a dialogue"),
        (recipe(evaluation={"exact_match": True}), "evaluation.exact_match has no effect on preferences"),
        (
            recipe(local={"curriculum": {"difficulty": "fisher"}}),
            "local.curriculum.difficulty: fisher is measured on the labels of single answers",
        ),
        (
            recipe({"loss": "kto"}, local={"curriculum": {"difficulty": "length"}}),
            "local.curriculum: loss kto puts every answer after the prompt of another",
        ),
        (recipe(local={"pruning": {}}), "local.pruning: what matters to a client is measured on single answers"),
        (recipe(federation={"layers": {"share": 0.5}}), "federation.layers: layers are measured on the labels"),
        (recipe({"loss": "kto"}, model={"adapter": {"kind": "full"}}), "which loss kto needs as its reference"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        validate_recipe(values)
    assert told in refused.value.message


@pytest.mark.parametrize(
    "sections",
    [
        {"local": {"curriculum": {"difficulty": "length"}}},
        {"federation": {"layers": {"choose": "random", "share": 0.5}}},
        {"federation": {"attack": {"kind": "label_flip", "share": 0.2}}},
    ],
)
def test_what_measures_nothing_on_labels_goes_with_preferences(sections: dict[str, Any]) -> None:
    validate_recipe(recipe(**sections))


def test_an_instruction_needs_a_prompt() -> None:
    section = {"path": "rows.jsonl", "instruction": "Which?", "fields": {"chosen": "c", "rejected": "r"}}
    with pytest.raises(UserError, match=r"so fields\.chosen without a prompt has no place"):
        validate_recipe({**recipe(), "data": {"source": section}})


def test_one_key_changes_the_loss_of_a_shipped_recipe() -> None:
    made = load_recipe("preferences", ["task={kind: dpo, loss: simpo}"])
    assert (made.task.beta, made.task.margin) == (2.0, 1.0)
