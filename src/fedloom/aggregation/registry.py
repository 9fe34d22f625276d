"""Algorithms by name, for recipes and for callers from other frameworks."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from fedloom.aggregation.base import Algorithm, FromRun
from fedloom.errors import UserError, unknown_name

# The name in a recipe, and where in this package its class is. A class's signature is its parameters: their types,
# bounds and descriptions are checked here and shown by `fedloom schema`.
ALGORITHMS = {
    "fedavg": "fedavg:FedAvg",
    "fedprox": "fedprox:FedProx",
    "scaffold": "scaffold:Scaffold",
    "fednova": "fednova:FedNova",
    "feddyn": "feddyn:FedDyn",
    "fedavgm": "fedopt:FedAvgM",
    "fedadagrad": "fedopt:FedAdagrad",
    "fedyogi": "fedopt:FedYogi",
    "fedadam": "fedopt:FedAdam",
    "fed_sb": "lora.fed_sb:FedSb",
    "fedex_lora": "lora.fedex_lora:FedExLora",
    "fedsa_lora": "lora.fedsa_lora:FedSaLora",
    "ffa_lora": "lora.ffa_lora:FfaLora",
    "flexlora": "lora.flexlora:FlexLora",
    "flora": "lora.flora:Flora",
    "hetlora": "lora.hetlora:HetLora",
    "rolora": "lora.rolora:RoLora",
    "median": "trimmed_mean:Median",
    "trimmed_mean": "trimmed_mean:TrimmedMean",
    "krum": "krum:Krum",
    "multi_krum": "krum:MultiKrum",
    "geometric_median": "geometric_median:GeometricMedian",
    "norm_bound": "norm_bound:NormBound",
    "ditto": "ditto:Ditto",
    "pfedme": "pfedme:PFedMe",
    "fedbuff": "fedbuff:FedBuff",
    "composed": "composed:Composed",
}


def algorithm(name: str, **parameters: Any) -> Algorithm:
    """Build an algorithm.

    Args:
        name: e.g. "fedavg".
        parameters: the algorithm's own, and what it has to know of a run, e.g. the number of clients.

    Returns:
        Something with `init` and `step`.

    Raises:
        ValueError: for an unknown name or parameter, or a value out of its bounds.
    """
    if name not in ALGORITHMS:
        raise unknown_name("federation.algorithm.name", name, ALGORITHMS)
    model = parameters_model(name, with_run=True)
    for parameter in parameters:
        if parameter not in model.model_fields:
            raise unknown_name(f"federation.algorithm ({name})", parameter, model.model_fields)
    try:
        checked = model.model_validate(parameters)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join(map(str, detail["loc"]))
        said = f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
        raise UserError(f"federation.algorithm.{key}: {detail['input']!r}: {said} ({name})") from None
    return algorithm_class(name)(**{key: getattr(checked, key) for key in model.model_fields})


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of an algorithm, imported when it is first asked for.

    Args:
        name: one of `ALGORITHMS`.

    Returns:
        The class.
    """
    module, _, attribute = ALGORITHMS[name].partition(":")
    found: type[Algorithm] = getattr(importlib.import_module(f"fedloom.aggregation.{module}"), attribute)
    return found


@cache
def parameters_model(name: str, with_run: bool = False) -> type[BaseModel]:
    """An algorithm's parameters as a model that checks them.

    Args:
        name: one of `ALGORITHMS`.
        with_run: include what follows from the run and is no key of a recipe.

    Returns:
        A pydantic model with a field for each.
    """
    build = algorithm_class(name)
    hints = get_type_hints(build.__init__, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(build).parameters.values()):
        hint = hints[parameter.name]
        if from_run(hint) and not with_run:
            continue
        fields[parameter.name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
    summary = (inspect.getdoc(build) or "").partition("\n")[0]
    return create_model(build.__name__, __config__=config, __doc__=summary, **fields)


def run_parameters(name: str) -> list[str]:
    """What an algorithm has to know of the run.

    Args:
        name: one of `ALGORITHMS`.

    Returns:
        Names of parameters.
    """
    hints = get_type_hints(algorithm_class(name).__init__, include_extras=True)
    return [parameter for parameter, hint in hints.items() if from_run(hint)]


def placeholders(name: str) -> dict[str, Any]:
    """Possible values of what an algorithm has to know of the run, where no run is at hand.

    Args:
        name: one of `ALGORITHMS`.

    Returns:
        A value for each of its `run_parameters`.
    """
    fields = parameters_model(name, with_run=True).model_fields
    return {parameter: 1.0 if fields[parameter].annotation is float else 1 for parameter in run_parameters(name)}


def from_run(hint: Any) -> bool:
    """Whether a parameter's annotation is marked with `FromRun`."""
    return get_origin(hint) is Annotated and any(item is FromRun for item in get_args(hint)[1:])
