"""Which judge is asked, and how: the options of the command line, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from fedloom.errors import UserError
from fedloom.recipe.base import Config, PositiveInt
from fedloom.recipe.loading import explain
from fedloom.recipe.yaml_text import parse_yaml

KEY_VARIABLE = "FEDLOOM_JUDGE_API_KEY"
# What every request asks for unless --judge-setting says otherwise; FastChat's choice for MT-Bench (arXiv 2306.05685).
SETTINGS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 2048}
# Settings that would change what a request is, not how it is answered.
_OURS = ("model", "messages", "stream", "n")


class JudgeConfig(Config):
    """A judge. Nothing is sent anywhere unless one is named."""

    url: str = Field(description="Base address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1.")
    model: str = Field(min_length=1, description="The judging model's name there.")
    key_variable: str = Field(
        KEY_VARIABLE, description="Environment variable with the API key; the default one may be unset (no key)."
    )
    settings: dict[str, Any] = Field(
        SETTINGS, description="What a request asks for besides model and messages; a null leaves a default out."
    )
    prompts: str | None = Field(None, description="A file of judge prompts in place of ours, role by role.")
    concurrency: PositiveInt = Field(4, description="Requests under way at a time.")
    timeout: float = Field(120.0, gt=0, description="Seconds until a request without a whole reply is given up.")
    attempts: PositiveInt = Field(6, description="Tries of a request, and of a judgement whose text has no verdict.")
    prompt_price: float | None = Field(None, ge=0, description="Money for a million prompt tokens, in any currency.")
    completion_price: float | None = Field(None, ge=0, description="Money for a million completion tokens.")

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises for a port that is none
        except ValueError as error:
            raise ValueError(f"--judge: {url!r} is not an address: {error}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"--judge: {url!r} is not an address that begins with http:// or https://")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError("--judge: the address must hold no key or password: they belong in a variable")
        return url.rstrip("/").removesuffix("/chat/completions")

    @field_validator("settings")
    @classmethod
    def _only_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in _OURS:
            if name in settings:
                raise ValueError(f"--judge-setting: {name} is not a setting; Fedloom sets it")
        return {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}

    @model_validator(mode="after")
    def _both_prices(self) -> JudgeConfig:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("--judge-prompt-price and --judge-completion-price: give both, or neither")
        return self

    def key(self) -> str | None:
        """The API key, read when it is needed and kept nowhere.

        Returns:
            The key; None where the default variable is unset, as a server of one's own needs none.

        Raises:
            UserError: where a variable was named and is unset, or holds what no header can.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key and self.key_variable != KEY_VARIABLE:
            raise UserError(f"--judge-key-variable: the environment variable {self.key_variable} is not set")
        if not key.isascii() or not key.isprintable():
            raise UserError(f"--judge-key-variable: {self.key_variable} holds characters that no API key has")
        return key or None


def judge_config(url: str | None, model: str | None, settings: Sequence[str] = (), **others: Any) -> JudgeConfig | None:
    """Check the options that name a judge.

    Args:
        url: of --judge; None: there is no judge.
        model: of --judge-model.
        settings: of --judge-setting, as KEY=VALUE with the value in YAML.
        others: further fields of `JudgeConfig`; those that are None were not given.

    Returns:
        The judge, or None without one.

    Raises:
        UserError: naming the option, for a wrong value, or one that has no effect without a judge.
    """
    given = {name: value for name, value in others.items() if value is not None}
    if url is None:
        idle = [*(["model"] if model is not None else []), *(["setting"] if settings else []), *given]
        if idle:
            raise UserError(f"{_option(idle[0])}: has no effect without --judge URL")
        return None
    if model is None:
        raise UserError("--judge-model: is required with --judge")
    values = {"url": url, "model": model, "settings": dict(map(_setting, settings)), **given}
    try:
        config = JudgeConfig.model_validate(values)
    except ValidationError as error:
        told = explain(error, JudgeConfig).message
        field, colon, rest = told.partition(":")
        raise UserError(told if told.startswith("--") else _option(field.partition(".")[0]) + colon + rest) from None
    config.key()
    return config


def _option(field: str) -> str:
    return "--judge" if field == "url" else f"--judge-{field.replace('_', '-')}"


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UserError(f"--judge-setting {text!r}: expected KEY=VALUE, e.g. max_tokens=1024")
    return name.strip(), parse_yaml(value, f"--judge-setting {name.strip()}")
