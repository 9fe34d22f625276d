"""The algorithm section of a recipe: a name, and whatever parameters the algorithm of that name has."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fedloom.errors import UserError, nearest


class AlgorithmConfig(BaseModel):
    """How updates become the next adapter; each algorithm declares its own parameters (docs/algorithms.md)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field("fedavg", description="Which one; docs/algorithms.md has a row for each.")

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, values: Any) -> Any:
        """Check the parameters against the algorithm's own, and fill in those left out."""
        if isinstance(values, str):
            values = {"name": values}
        if not isinstance(values, dict):
            return values
        # Not at the top: the algorithms import torch, which takes seconds.
        from fedloom.aggregation.registry import ALGORITHMS, algorithm, parameters_model, placeholders

        names: Any = Literal[tuple(ALGORITHMS)]
        # Errors of these models are told under the keys they were found at.
        name = create_model("Named", name=(names, "fedavg")).model_validate({"name": values.get("name", "fedavg")})
        given = {key: value for key, value in values.items() if key != "name"}
        model = parameters_model(name.name)  # type: ignore[attr-defined]
        for key in given:
            if key not in model.model_fields:
                allowed = ", ".join(model.model_fields) or "it has none"
                close = nearest(key, model.model_fields)
                raise UserError(
                    f"{key!r} is no parameter of {name.name}; allowed: {allowed}",  # type: ignore[attr-defined]
                    hint=f"did you mean {close!r}?" if close else None,
                )
        parameters = model.model_validate(given).model_dump()
        # Parameters that do not go together are told now, not once the run is known.
        algorithm(name.name, **parameters, **placeholders(name.name))  # type: ignore[attr-defined]
        return {"name": name.name, **parameters}  # type: ignore[attr-defined]

    @property
    def parameters(self) -> dict[str, Any]:
        """What is given to the algorithm of this name."""
        return dict(self.model_extra or {})

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One alternative for each algorithm."""
        from fedloom.aggregation.registry import ALGORITHMS, parameters_model

        alternatives = []
        for name in ALGORITHMS:
            alternative = parameters_model(name).model_json_schema()
            properties = {"name": {"const": name, "type": "string"}, **alternative.get("properties", {})}
            alternatives.append({**alternative, "properties": properties, "required": ["name"]})
        return {"description": cls.__doc__, "oneOf": alternatives}


def default_algorithm() -> AlgorithmConfig:
    """Federated averaging with its defaults."""
    return AlgorithmConfig.model_construct(name="fedavg", weighting="examples")
