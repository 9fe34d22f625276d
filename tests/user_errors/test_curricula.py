"""Mistakes about curricula: one clear line before any weight is read."""

from pathlib import Path

import pytest

from tests.federated_runs import recipe
from tests.user_errors import SMALL, Refused, contains

KEY = "local.curriculum"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([f"{KEY}=fisher"], [f"{KEY}: 'fisher' is not a section with the keys difficulty"]),
        ([f"{KEY}={{dificulty: loss}}"], [f"{KEY}.dificulty: unknown key", "did you mean 'difficulty'?"]),
        ([f"{KEY}={{difficulty: length, refresh: 1}}"], ["refresh has no effect on difficulty 'length'"]),
        ([f"{KEY}={{start: 0}}"], [f"{KEY}.start: 0 is not a number above 0"]),
        (
            [f"{KEY}={{}}", "local.batch_size=42"],
            [f"{KEY} has no effect", "no client has more than one", "local.batch_size 42", "lower local.batch_size"],
        ),
    ],
)
def test_curricula(refused_early: Refused, rows: Path, overrides: list[str], parts: list[str]) -> None:
    options = [word for override in overrides for word in ("--set", override)]
    contains(refused_early(recipe(rows, **SMALL), *options), *parts)
