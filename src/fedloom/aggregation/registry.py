"""Algorithms by name, for recipes and for callers from other frameworks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fedloom.aggregation.base import Algorithm
from fedloom.aggregation.fedavg import FedAvg
from fedloom.errors import unknown_name

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {"fedavg": FedAvg}


def algorithm(name: str, **parameters: Any) -> Algorithm:
    """Build an algorithm.

    Args:
        name: e.g. "fedavg".
        parameters: the algorithm's own.

    Returns:
        Something with `init` and `step`.

    Raises:
        ValueError: for an unknown name or parameter.
    """
    if name not in ALGORITHMS:
        raise unknown_name("federation.algorithm.name", name, ALGORITHMS)
    build = ALGORITHMS[name]
    allowed = list(inspect.signature(build).parameters)
    for parameter in parameters:
        if parameter not in allowed:
            raise unknown_name(f"federation.algorithm ({name})", parameter, allowed)
    return build(**parameters)
