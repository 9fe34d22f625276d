"""The model section of a recipe: the frozen base, and the adapter trained on it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from fedloom.recipe.adapter_schema import AdapterConfig, LoraConfig
from fedloom.recipe.base import Config


class ModelConfig(Config):
    """The frozen base model and the adapter trained on it."""

    base: str = Field("pocket", description="A model folder, a hub id, or 'pocket' (embedded in Fedloom).")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of the frozen base; auto: bfloat16 where the hardware computes it."
    )
    adapter: AdapterConfig = Field(
        default_factory=lambda: LoraConfig(), description="What is trained; see docs/adapters.md."
    )
    quantization: Literal["8bit", "4bit"] | None = Field(
        None,
        description="Hold the frozen base's linear layers in 8 bits (int8, row by row) or 4 (nf4), by bitsandbytes; "
        "needs the extra `quantized`.",
    )

    @field_validator("adapter", mode="before")
    @classmethod
    def _lora_unless_named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        return {"kind": "lora", **value} if isinstance(value, dict) else value
