"""From YAML text and `key=value` overrides to a checked recipe, with errors a person can act on."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fedloom.errors import UserError, nearest, unknown_name
from fedloom.recipe.adapter_schema import AdapterKind
from fedloom.recipe.schema import Recipe
from fedloom.recipe.shipped import shipped_recipes


class _RecipeYaml(yaml.SafeLoader):
    """YAML 1.1 with the two fixes a recipe needs: 1e-3 is a number, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # the base class says so, with the line
            if key in seen:
                problem = f"the key {key!r} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_RecipeYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    # SafeLoader reads 1e-3 (no dot) as a string; JSON and people read it as a number.
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_RecipeYaml)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{where}{place}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


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
    if isinstance(source, Mapping):
        values: Any = dict(source)
    else:
        path = _recipe_file(source)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"recipe: {path} is not a UTF-8 text file") from None
        values = _parse_yaml(text, str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"recipe: expected a mapping of keys, got {type(values).__name__}")
    for override in overrides:
        values = _with_override(values, override)
    return validate_recipe(_shortened(values, overrides))


def _recipe_file(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    close = nearest(path.stem, shipped)
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
        raise _explain(error) from None


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
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


def parse_recipe(text: str) -> Recipe:
    """Read what `recipe_yaml` wrote.

    Args:
        text: YAML.

    Returns:
        The recipe.
    """
    return validate_recipe(_parse_yaml(text, "recipe"))


def _with_override(values: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set {override!r}: expected KEY=VALUE, e.g. local.learning_rate=1e-4")
    value = _parse_yaml(text, f"--set {key}")
    result = dict(values)
    section = result
    parts = key.split(".")
    for depth, part in enumerate(parts[:-1], start=1):
        inner = section.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise UserError(f"--set {key}: {'.'.join(parts[:depth])} is {_shown(inner)}, not a section of keys")
        section[part] = dict(inner) if isinstance(inner, dict) else {}
        section = section[part]
    section[parts[-1]] = value
    # steps and epochs are two spellings of one choice: the one given last replaces the other.
    if parts[0] == "local" and parts[-1] in {"steps", "epochs"}:
        section.pop({"steps": "epochs", "epochs": "steps"}[parts[-1]], None)
    return result


def _shortened(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    # Who only shortens a recipe with --set federation.rounds need not know how often it evaluates.
    given = {override.partition("=")[0].strip() for override in overrides}
    federation, evaluation = values.get("federation"), values.get("evaluation")
    if "federation.rounds" not in given or "evaluation.every" in given or not isinstance(evaluation, dict):
        return values
    every, rounds = evaluation.get("every"), federation.get("rounds") if isinstance(federation, dict) else None
    if isinstance(every, int) and isinstance(rounds, int) and every > rounds:
        return {**values, "evaluation": {**evaluation, "every": None}}
    return values


def _explain(error: ValidationError) -> UserError:
    details = error.errors(include_url=False)
    # An unknown key is nearly always the cause of what else is missing, and of the variants of a union the one
    # that got furthest is the one that was meant: tell these first.
    detail = max(details, key=lambda d: (d["type"] == "extra_forbidden", len(d["loc"])))
    kind, value = detail["type"], detail.get("input")
    # The last part is a key of the user's even where it looks like the name of a variant.
    location = [
        part
        for place, part in enumerate(detail["loc"], start=1)
        if not _is_tag(part) or (kind == "extra_forbidden" and place == len(detail["loc"]))
    ]
    key = ".".join(str(part) for part in location)
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _allowed_keys(location[:-1], detail["loc"])
        close = nearest(str(location[-1]), allowed)
        hint = f"did you mean {close!r}?" if close else None
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
    union = [d for d in details if d["loc"][:-1] == detail["loc"][:-1] and _is_tag(d["loc"][-1])] or [detail]
    wanted = " or ".join(_wanted(d, location) for d in union)
    literals = [d["ctx"]["expected"].strip("'") for d in union if d["type"] == "literal_error"]
    close = nearest(value, literals) if isinstance(value, str) else None
    hint = f"did you mean {close!r}?" if close else None
    if value is None:
        hint = "give it a value, or leave the key out to take its default"
    return UserError(f"{key}: {_shown(value)} is not {wanted}", hint=hint)


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
    "too_short": "a section with an entry",
    "string_pattern_mismatch": "text of the form {pattern}",
    "literal_error": "{expected}",
}


def _wanted(detail: Any, location: Sequence[int | str]) -> str:
    if detail["type"] in {"model_type", "model_attributes_type"}:
        return f"a section with the keys {', '.join(_allowed_keys(location, detail['loc']))}"
    if detail["type"] in _WANTED:
        return _WANTED[detail["type"]].format(**detail.get("ctx", {}))
    return f"allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _is_tag(part: int | str) -> bool:
    # pydantic puts the chosen variant of a union into the location; a person never wrote that.
    return isinstance(part, str) and (part in _TAGS or part.startswith("list["))


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


def _tags() -> set[str]:
    tags = {"list[str]", "str", "int", "float", "constrained-int", "bool", "list"}
    tags.update(f"literal['{name}']" for name in ("auto", "all-linear"))
    for model in _variants(Recipe):
        if model.__name__.startswith("Partition") or issubclass(model, AdapterKind):
            tags.update(get_args(model.model_fields["kind"].annotation))
    return tags


_TAGS = _tags()


def _allowed_keys(location: Sequence[int | str], raw: Sequence[int | str]) -> list[str]:
    models: list[type[BaseModel]] = [Recipe]
    tags = set(raw)
    for part in location:
        if isinstance(part, int):
            continue
        found = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in(model.model_fields[part].annotation)
        ]
        # Of variants, the one that pydantic has chosen by its tag.
        models = [model for model in found if tags & _kinds(model)] or found
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _kinds(model: type[BaseModel]) -> set[Any]:
    field = model.model_fields.get("kind")
    return set() if field is None else set(get_args(field.annotation))
