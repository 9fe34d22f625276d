"""Which of a distributed run's processes this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.errors import UserError
from fedloom.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Place:
    """A process's place among the processes of a run.

    Args:
        rank: its number, from 0; process 0 decides, writes and speaks.
        size: number of processes.
        local_rank: its number among those of this machine.
        local_size: number of processes on this machine.
        meeting_point: where the processes find each other: a URL that torch.distributed understands.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    meeting_point: str


def place_under_torchrun() -> Place | None:
    """Where torchrun has started this process: its place, else None."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in names)
    return Place(rank, size, local_rank, local_size, "env://")


def with_processes(overrides: Sequence[str], processes: int | None) -> list[str]:
    """Overrides of a recipe with what `--processes` stands for.

    Args:
        overrides: strings such as "local.steps=20".
        processes: the option's value, if given.

    Returns:
        The overrides, and those that make the runtime a distributed one.

    Raises:
        UserError: where an override says something about the same keys.
    """
    if processes is None:
        return list(overrides)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in {"runtime", "runtime.kind", "runtime.processes"}:
            raise UserError(
                f"--processes: {processes} sets runtime.kind and runtime.processes, and so does --set {override}",
                hint="give one of them",
            )
    return [*overrides, "runtime.kind=distributed", f"runtime.processes={processes}"]


def load_under_torchrun(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str], place: Place) -> Recipe:
    """Read a recipe where torchrun has decided on the runtime and the number of processes.

    Args:
        recipe: a YAML file, or the recipe as a mapping.
        overrides: strings such as "local.steps=20".
        place: this process's.

    Returns:
        The recipe, its runtime distributed.

    Raises:
        UserError: for any mistake in it, or where it asks for another runtime or number of processes.
    """
    runtime = load_recipe(recipe, overrides).runtime
    asked = any(override.partition("=")[0].strip() == "runtime.kind" for override in overrides)
    if asked and runtime.kind != "distributed":
        raise UserError(f"--set runtime.kind: {runtime.kind!r}, but torchrun's processes make one distributed run")
    if runtime.processes not in {None, place.size}:
        raise UserError(
            f"runtime.processes: {runtime.processes}, but torchrun started {place.size}",
            hint="leave it to torchrun",
        )
    return load_recipe(recipe, [*overrides, "runtime.kind=distributed", f"runtime.processes={place.size}"])
