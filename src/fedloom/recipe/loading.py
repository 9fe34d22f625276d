"""From YAML text and `key=value` overrides to a checked recipe, with errors a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fedloom.errors import UserError, nearest, unknown_name
from fedloom.recipe.adapter_schema import AdapterKind, kind_configs
from fedloom.recipe.data_schema import PartitionLabelPrior
from fedloom.recipe.schema import Recipe
from fedloom.recipe.shipped import shipped_recipes
from fedloom.recipe.yaml_text import parse_yaml, reads_as_number

# Sections that a recipe may give as a text, and the key that the text is the value of.
_NAMED_BY = {"model.adapter": "kind", "federation.algorithm": "name", "data.source": "path"}


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe.

    Args:
        source: path of a YAML file, or the recipe as a mapping.
        overrides: strings such as "local.steps=20"; values are YAML.

    Returns:
        The checked recipe with every default filled in.

    Raises:
        UserError: with key, value and what is allowed, where anything is wrong.
    """
    values = read_recipe(source)
    for override in overrides:
        values = _with_override(values, override)
    return validate_recipe(_shortened(values, overrides))


def read_recipe(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read a recipe as it was written, without checking it.

    Args:
        source: path of a YAML file, or the recipe as a mapping.

    Returns:
        The keys and values given, no defaults.

    Raises:
        UserError: where there is no such file, or it holds no YAML mapping.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = _recipe_file(source)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"recipe: {path} is not a UTF-8 text file") from None
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"recipe: expected a mapping of keys, got {type(values).__name__}")
    return values


def _recipe_file(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    close = nearest(path.as_posix().removesuffix(".yaml"), shipped)
    raise UserError(
        f"recipe: no such file: {path}",
        hint=f"did you mean the shipped recipe {close!r}?" if close else "`fedloom recipes` lists those shipped",
    )


def validate_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check a recipe given as a mapping.

    Args:
        values: the recipe's keys and values.

    Returns:
        The recipe.

    Raises:
        UserError: for the first thing that is wrong.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise explain(error, Recipe) from None


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out.

    Args:
        recipe: a checked recipe.

    Returns:
        YAML text that loads to an equal recipe.
    """
    values = recipe.model_dump(mode="json", exclude_none=True)
    if recipe.data.split.key is not None:
        values["data"]["split"] = {"key": recipe.data.split.key}
    if recipe.local.optimizer != "adamw":
        del values["local"]["epsilon"]
    if recipe.local.max_gradient_norm is None:
        values["local"]["max_gradient_norm"] = None
    if isinstance(recipe.data.partition, PartitionLabelPrior) and recipe.data.partition.size_alpha is None:
        values["data"]["partition"]["size_alpha"] = None
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def parse_recipe(text: str) -> Recipe:
    """Read what `recipe_yaml` wrote.

    Args:
        text: YAML.

    Returns:
        The recipe.
    """
    return validate_recipe(parse_yaml(text, "recipe"))


def _with_override(values: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set {override!r}: expected KEY=VALUE, e.g. local.learning_rate=1e-4")
    if not text.strip():
        raise UserError(f"--set {key}=: needs a value", hint="null stands for none, '' for the empty text")
    value = parse_yaml(text, f"--set {key}")
    result = dict(values)
    section = result
    parts = key.split(".")
    for depth, part in enumerate(parts[:-1], start=1):
        inner, inner_key = section.get(part), ".".join(parts[:depth])
        if isinstance(inner, str) and inner_key in _NAMED_BY:
            inner = {_NAMED_BY[inner_key]: inner}
        if inner is not None and not isinstance(inner, dict):
            raise UserError(f"--set {key}: {inner_key} is {_shown(inner)}, not a section of keys")
        section[part] = dict(inner) if isinstance(inner, dict) else {}
        section = section[part]
    section[parts[-1]] = value
    # steps and epochs are two spellings of one choice: the one given last replaces the other.
    if parts[0] == "local" and parts[-1] in {"steps", "epochs"}:
        section.pop({"steps": "epochs", "epochs": "steps"}[parts[-1]], None)
    return result


def _shortened(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    # Who only shortens a recipe with --set federation.rounds need not know how often it evaluates, nor what waits for
    # these evaluations.
    given = {override.partition("=")[0].strip() for override in overrides}
    federation, evaluation = values.get("federation"), values.get("evaluation")
    if "federation.rounds" not in given or "evaluation.every" in given or not isinstance(evaluation, dict):
        return values
    every, rounds = evaluation.get("every"), federation.get("rounds") if isinstance(federation, dict) else None
    if isinstance(federation, dict) and isinstance(every, int) and isinstance(rounds, int) and every > rounds:
        stop = federation.get("stop")
        if isinstance(stop, dict):
            stop = {name: rule for name, rule in stop.items() if name not in {"target", "patience"}} or None
        return {**values, "evaluation": {**evaluation, "every": None}, "federation": {**federation, "stop": stop}}
    return values


def explain(error: ValidationError, root: type[BaseModel]) -> UserError:
    """Tell the first thing that is wrong in values that were to become a model.

    Args:
        error: what pydantic found.
        root: the model: a recipe, or another one read from YAML.

    Returns:
        One line with key, value and what is allowed.
    """
    details = error.errors(include_url=False)
    # An unknown key is nearly always the cause of what else is missing, and of the variants of a union the one
    # that got furthest is the one that was meant: tell these first.
    detail = max(details, key=lambda d: (d["type"] == "extra_forbidden", len(d["loc"])))
    kind, value = detail["type"], detail.get("input")
    # The last part is a key of the user's even where it looks like the name of a variant.
    location = [
        part
        for place, part in enumerate(detail["loc"], start=1)
        if not _is_tag(detail["loc"][:place]) or (kind == "extra_forbidden" and place == len(detail["loc"]))
    ]
    key = ".".join(str(part) for part in location)
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _allowed_keys(location[:-1], detail["loc"], root)
        # The names that transformers and PEFT have for the same come first: they are seldom near in spelling.
        elsewhere = _NAMES_ELSEWHERE.get(str(location[-1]))
        close = elsewhere if elsewhere in allowed else nearest(str(location[-1]), allowed)
        hint = f"did you mean {close!r}?" if close else None
        if location[:-1] == ["model", "adapter"]:
            hint = _of_other_kinds(str(location[-1]), detail["loc"]) or hint
        return UserError(f"{key}: unknown key; allowed here: {', '.join(allowed)}", hint=hint)
    if kind == "union_tag_invalid":
        allowed = [name.strip().strip("'") for name in str(context["expected_tags"]).split(",")]
        return unknown_name(f"{key}.{str(context['discriminator']).strip(chr(39))}", context["tag"], allowed)
    if kind == "union_tag_not_found":
        return UserError(f"{key}: needs the key {context['discriminator']}")
    if kind == "literal_error":
        allowed = [name.strip("'") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return unknown_name(key, value, allowed)
    if kind == "missing":
        return UserError(f"{key}: is required")
    if kind == "value_error":
        told = str(context["error"])
        return UserError(told if not key or told.startswith(key) else f"{key}: {told}")
    # A union tells of each of its variants; all of them are allowed.
    union = [d for d in details if d["loc"][:-1] == detail["loc"][:-1] and _is_tag(d["loc"])] or [detail]
    wanted = " or ".join(_wanted(d, location, root) for d in union)
    literals = [d["ctx"]["expected"].strip("'") for d in union if d["type"] == "literal_error"]
    close = nearest(value, literals) if isinstance(value, str) else None
    hint = f"did you mean {close!r}?" if close else None
    return UserError(
        f"{key}: {_shown(value)} is not {wanted}", hint=hint or _spelling_hint(value, union, location, root)
    )


def _of_other_kinds(key: str, raw: Sequence[int | str]) -> str | None:
    """What to do about a key of other kinds of adapters: a recipe's kind was changed, and the key has stayed."""
    owners = [kind for kind, config in kind_configs().items() if key in config.model_fields]
    chosen = next((str(part) for part in raw if part in kind_configs()), None)
    if not owners or chosen is None:
        return None
    return f"it belongs to {', '.join(owners)}; --set model.adapter={chosen} takes {chosen} with its own defaults"


def _spelling_hint(value: Any, union: Sequence[Any], key: Sequence[int | str], root: type[BaseModel]) -> str | None:
    """What was probably meant by a value of the wrong type."""
    kinds = {detail["type"] for detail in union}
    if value is None:
        return "give it a value, or leave the key out to take its default"
    if "string_type" in kinds and isinstance(value, bool | int | float | date):
        return "put it in quotes: YAML reads yes, no, numbers and dates as such"
    if isinstance(value, str) and kinds & {"int_type", "float_type"} and reads_as_number(value):
        return "leave the quotes out"
    if isinstance(value, str) and "list_type" in kinds:
        return f"write [{', '.join(part.strip() for part in value.split(','))}]"
    if isinstance(value, str) and union[0]["type"] in {"model_type", "model_attributes_type"}:
        keys = _allowed_keys(key, union[0]["loc"], root)
        return f"write {{kind: {value}, ...}}" if "kind" in keys else None
    return None


_NAMES_ELSEWHERE = {
    "lr": "learning_rate",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "torch_dtype": "dtype",
    "model_name_or_path": "base",
    "per_device_train_batch_size": "batch_size",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "optim": "optimizer",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "max_gradient_norm",
    "max_length": "max_tokens",
    "max_seq_length": "max_tokens",
    "num_rounds": "rounds",
}
_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "invalid_key": "text, as every key is",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g} up",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number up to {le:g}",
    "too_short": "a section with an entry",
    "string_pattern_mismatch": "text of the form {pattern}",
    "literal_error": "{expected}",
}


def _wanted(detail: Any, location: Sequence[int | str], root: type[BaseModel]) -> str:
    if detail["type"] in {"model_type", "model_attributes_type"}:
        return f"a section with the keys {', '.join(_allowed_keys(location, detail['loc'], root))}"
    if detail["type"] in _WANTED:
        return _WANTED[detail["type"]].format(**detail.get("ctx", {}))
    return f"allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, date):
        return str(value)
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _is_tag(location: Sequence[int | str]) -> bool:
    # pydantic puts the chosen variant of a union into the location, after its key; a person never wrote that.
    *before, part = location
    if not isinstance(part, str):
        return False
    kinds = _KINDS.get(str(before[-1]), ()) if before else ()
    return part in _TAGS or part in kinds or part.startswith(("list[", "literal[", "function-after["))


def _variants(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found.extend(_variants(inner))
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _kinds_where(wanted: Callable[[type[BaseModel]], bool]) -> set[str]:
    models = [model for model in _variants(Recipe) if wanted(model)]
    return {name for model in models for name in get_args(model.model_fields["kind"].annotation)}


_TAGS = {"list[str]", "SourceConfig", "str", "int", "float", "constrained-int", "constrained-float", "bool", "list"}
_TAGS.add("DifficultyColumn")
# The kinds of a union's variants by its key: elsewhere a key may have the same name, as local.sparse has.
_KINDS = {
    "adapter": _kinds_where(lambda model: issubclass(model, AdapterKind)),
    "partition": _kinds_where(lambda model: model.__name__.startswith("Partition")),
}


def _allowed_keys(location: Sequence[int | str], raw: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    models = [root]
    tags = set(raw)
    for part in location:
        if isinstance(part, int):
            continue
        found = [
            inner
            for model in models
            if part in model.model_fields
            for inner in dict.fromkeys(_models_in(model.model_fields[part].annotation))
        ]
        # Of variants, the one that pydantic has chosen by its tag.
        models = [model for model in found if tags & _kinds(model)] or found
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _kinds(model: type[BaseModel]) -> set[Any]:
    field = model.model_fields.get("kind")
    return set() if field is None else set(get_args(field.annotation))
