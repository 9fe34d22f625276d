"""What `--vary` and `--tune` say: keys with lists of values, and the grid they span."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.errors import UserError
from fedloom.recipe import Recipe, parse_yaml
from fedloom.recipe.adapter_schema import kind_configs

ALGORITHM, ALGORITHM_NAME = "federation.algorithm", "federation.algorithm.name"
ADAPTER, ADAPTER_KIND = "model.adapter", "model.adapter.kind"
# Of a value in the recipe, where --tune names no values of its own.
DEFAULT_FACTORS = (0.1, 0.1**0.5, 1.0, 10**0.5, 10.0)

Values = dict[str, Any]


def parse_options(option: str, texts: Sequence[str]) -> dict[str, list[Any] | None]:
    """Read KEY=VALUE,VALUE,... with YAML values, which may be lists and mappings with commas of their own.

    Args:
        option: its name; only --tune does without values.
        texts: what was given to it, each time.

    Returns:
        Keys and their values; None where there is no equals sign.

    Raises:
        UserError: where a key or a value is missing, is not valid YAML, or a key is given twice.
    """
    found: dict[str, list[Any] | None] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if not key or not (equals or option == "--tune"):
            raise UserError(f"{option} {text!r}: expected KEY=VALUE,VALUE, e.g. {ALGORITHM_NAME}=fedavg,scaffold")
        if key in found:
            raise UserError(f"{option} {key}: is given twice; list its values with commas")
        if equals and (not listed.strip() or listed.rstrip().endswith(",")):
            raise UserError(f"{option} {key}: a value is missing in {listed!r}")
        # The inside of a YAML list.
        found[key] = parse_yaml(f"[{listed}]", f"{option} {key}") if equals else None
    return found


def points(axes: Mapping[str, Sequence[Any]]) -> list[Values]:
    """All combinations of values, the last key running fastest.

    Args:
        axes: key -> values.

    Returns:
        One mapping for each combination; a single empty one where there are no keys.
    """
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def overrides_of(point: Values, recipe: Recipe) -> list[str]:
    """What sets a recipe to a point of the grid.

    Args:
        point: key -> value.
        recipe: the recipe without it.

    Returns:
        Overrides as `load_recipe` takes them, sections before keys within them.
    """
    settings = []
    for key, value in point.items():
        if key == ALGORITHM_NAME and value != recipe.federation.algorithm.name:
            # Parameters belong to an algorithm: another one comes with its own.
            settings.append((ALGORITHM, {"name": value}))
        elif key == ADAPTER_KIND and not _keeps_keys(recipe, value):
            settings.append((ADAPTER, {"kind": value}))
        else:
            settings.append((key, value))
    return [f"{key}={json.dumps(value)}" for key, value in sorted(settings, key=lambda one: one[0].count("."))]


def _keeps_keys(recipe: Recipe, kind: Any) -> bool:
    """Whether another kind of adapter has all the keys that a recipe gives its own, as DoRA has LoRA's."""
    config = kind_configs().get(kind) if isinstance(kind, str) else None
    return config is None or recipe.model.adapter.model_fields_set <= config.model_fields.keys()


def value_at(recipe: Recipe, key: str) -> Any:
    """The value a recipe has under a dotted key, None where it has none."""
    value: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def values_around(recipe: Recipe, key: str) -> list[float]:
    """The grid of `--tune KEY`: five values, from a tenth of the recipe's to ten times it, even in the logarithm.

    Args:
        recipe: the variant's.
        key: of a positive number that need not be whole.

    Returns:
        Values with three significant digits, the recipe's own, exactly, in the middle.

    Raises:
        UserError: for a value of another kind.
    """
    value = value_at(recipe, key)
    if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
        raise UserError(
            f"--tune {key}: {value!r} is not a positive number with decimals to draw a grid around",
            hint=f"give the values: --tune {key}=VALUE,VALUE",
        )
    return [value if factor == 1 else float(f"{value * factor:.3g}") for factor in DEFAULT_FACTORS]


def label_of(point: Values, others: Sequence[str]) -> str:
    """A short name of a point: an algorithm's name alone, other keys by their last part.

    Args:
        point: key -> value.
        others: all keys that are varied.

    Returns:
        E.g. "fedprox mu=0.1, rank=8".
    """
    last = [key.rsplit(".", 1)[-1] for key in others]
    told = []
    for key, value in point.items():
        short = key.rsplit(".", 1)[-1]
        if key == ALGORITHM_NAME or (key == ALGORITHM and isinstance(value, str)):
            told.append(str(value))
        elif key == ALGORITHM and isinstance(value, dict):
            told.append(_section("name", "fedavg", value))
        elif key == ADAPTER and isinstance(value, dict):
            told.append(f"{short}={_section('kind', 'lora', value)}")
        else:
            told.append(f"{short if last.count(short) == 1 else key}={_shown(value)}")
    return ", ".join(told)


def folder_name(label: str, taken: Sequence[str]) -> str:
    """A name for a label's folder.

    Args:
        label: any text.
        taken: names that are in use.

    Returns:
        The label, signs that shells and file systems care about replaced, and numbered where it is taken.
    """
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "_", label).strip("_.") or "variant"
    plain = plain[:100]
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _section(named_by: str, default: str, values: Values) -> str:
    """A section by its name and its further keys."""
    further = [f"{key}={_shown(value)}" for key, value in values.items() if key != named_by]
    return " ".join([str(values.get(named_by, default)), *further])


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return f"[{','.join(_shown(item) for item in value)}]"
    return json.dumps(value)
