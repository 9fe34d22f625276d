"""Algorithms put together from parts of others: what clients add, how updates become one, how the server steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from fedloom.aggregation.composition import Composition
from fedloom.aggregation.registry import algorithm
from fedloom.errors import UserError, unknown_name

# Whose part fits which place.
PARTS = {
    "client": ("fedprox",),
    "rule": ("fedavg", "fednova", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "norm_bound"),
    "server": ("fedavgm", "fedadagrad", "fedyogi", "fedadam"),
}
Part = Annotated[
    dict[str, Any] | None, Field(description="The name of an algorithm with this part, and its parameters.")
]


class Composed(Composition):
    """x <- server(x, rule(D_1, ..., D_n)) with parts of other algorithms, e.g. a trimmed mean under FedAdam.

    Args:
        client: what clients add to their loss, from fedprox; None: nothing.
        rule: how updates become one, from fedavg, fednova or a robust algorithm; None: the mean weighted by examples.
        server: how the server steps, from fedavgm, fedadagrad, fedyogi or fedadam; None: it adds the one update.
    """

    def __init__(self, client: Part = None, rule: Part = None, server: Part = None) -> None:
        if client is None and server is None:
            raise UserError("federation.algorithm: composed needs a client or a server part; a rule has its own name")
        combined = _part("rule", {"name": "fedavg"} if rule is None else rule)
        if client is not None and rule is not None and rule["name"] == "fednova":
            raise UserError("federation.algorithm.client: fednova's rule needs clients that report their own steps")
        if server is not None and "weighting" in server:
            raise UserError("federation.algorithm.server.weighting: has no effect here, weights belong to the rule")
        optimizer = None if server is None else _part("server", server).optimizer
        super().__init__(
            combined.rule, optimizer, combined.client if client is None else _part("client", client).client
        )


def _part(place: str, values: Mapping[str, Any]) -> Composition:
    name = values.get("name")
    if name not in PARTS[place]:
        raise unknown_name(f"federation.algorithm.{place}.name", name, PARTS[place])
    found = algorithm(name, **{key: value for key, value in values.items() if key != "name"})
    assert isinstance(found, Composition)
    return found
