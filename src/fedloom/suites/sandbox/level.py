"""How well this machine can shut a program in: tried once, never assumed."""

from __future__ import annotations

import sys
from functools import cache

from fedloom.errors import UserError, unknown_name
from fedloom.suites.sandbox.programs import Level, NoSandbox, run_program

LEVELS: tuple[Level, ...] = ("isolated", "weak")


@cache
def obstacle(level: Level) -> str | None:
    """Run an empty program at a level.

    Args:
        level: isolated or weak.

    Returns:
        Why that can't be done here, or None where it can.
    """
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    try:
        verdict = run_program("", level)
    except NoSandbox as error:
        return error.message
    return None if verdict.passed else verdict.detail or verdict.output or verdict.reason


def check_level(level: str, key: str) -> Level:
    """Check that programs can be run at the level that was asked for; a lower one is never taken instead.

    Args:
        level: what was asked for.
        key: where.

    Returns:
        The level.

    Raises:
        UserError: for another name, and for a level that this machine does not allow.
    """
    names = {one: one for one in LEVELS}
    if level not in names:
        raise unknown_name(key, level, LEVELS)
    chosen: Level = names[level]
    if (why := obstacle(chosen)) is not None:
        hint = None
        if chosen == "isolated" and obstacle("weak") is None:
            hint = "allow user namespaces; `fedloom evaluate --sandbox weak` takes less protection, see docs/sandbox.md"
        raise UserError(f"sandbox: {chosen} is not possible here: {why}", hint=hint)
    return chosen


def best_level() -> str:
    """The best level that this machine allows, in words for `fedloom doctor`."""
    why = obstacle("isolated")
    if why is None:
        return "isolated"
    return f"weak only (isolated: {why})" if obstacle("weak") is None else f"none ({obstacle('weak')})"
