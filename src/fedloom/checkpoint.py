"""Checkpoints: the whole state of a run after a round, written so that a kill leaves the newest whole one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fedloom.errors import UserError
from fedloom.wire.encoding import in_order

KEPT = 2
ADAPTER, ALGORITHM = "adapter/", "algorithm/"


@dataclass
class RunState:
    """Where a run stands; everything else follows from the recipe.

    Args:
        arm: index of the arm at work.
        round: rounds of it that are done.
        adapter: what the next round is sent.
        algorithm: the server's state.
        totals: seconds (by phase), bytes and tokens so far.
        results: evaluation of each arm that has one, by name.
        losses: of the federation's evaluations, that before the first round first.
        stop: the rule that ended the federation's rounds early, and after which round (see `fedloom.stopping`).
        events: bytes of the event log that belong to this state.
    """

    arm: int = 0
    round: int = 0
    adapter: dict[str, Tensor] = field(default_factory=dict)
    algorithm: dict[str, Tensor] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    stop: dict[str, Any] | None = None
    events: int = 0


def save_checkpoint(directory: Path, state: RunState) -> None:
    """Write a checkpoint beside the earlier ones and drop all but the newest two.

    Args:
        directory: the run's `checkpoints/` folder.
        state: what to write.
    """
    directory.mkdir(exist_ok=True)
    for leftover in directory.glob(".*"):
        shutil.rmtree(leftover)
    name = f"{state.arm}-{state.round:06d}"
    partial = directory / f".{name}"
    partial.mkdir()
    tensors = {ADAPTER + key: value for key, value in state.adapter.items()}
    tensors |= {ALGORITHM + key: value for key, value in state.algorithm.items()}
    content = safetensors.torch.save(tensors)
    _write(partial / "state.safetensors", content)
    numbers = {name: value for name, value in vars(state).items() if name not in {"adapter", "algorithm"}}
    numbers["sha256"] = hashlib.sha256(content).hexdigest()
    _write(partial / "state.json", json.dumps(numbers, allow_nan=False).encode())
    _sync_folder(partial)
    final = directory / name
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    _sync_folder(directory)
    for old in _checkpoints(directory)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(directory: Path) -> RunState | None:
    """Read the newest checkpoint, or the one before it where a disk has damaged the newest.

    Args:
        directory: the run's `checkpoints/` folder.

    Returns:
        The state, or None where there is no checkpoint yet.

    Raises:
        UserError: where all of them are damaged.
    """
    found = _checkpoints(directory)
    damage: Exception | None = None
    for path in reversed(found):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            damage = error
            warnings.warn(f"{path}: damaged checkpoint, trying the one before: {error}", stacklevel=2)
    if damage is not None:
        raise UserError(f"{directory}: no checkpoint can be read: {damage}", hint="begin again in a new folder")
    return None


def _read(path: Path) -> RunState:
    numbers = json.loads((path / "state.json").read_text(encoding="utf-8"))
    content = (path / "state.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != numbers.pop("sha256"):
        raise ValueError("state.safetensors is not what was written")
    tensors = in_order(safetensors.torch.load(content))
    return RunState(
        adapter={k.removeprefix(ADAPTER): v for k, v in tensors.items() if k.startswith(ADAPTER)},
        algorithm={k.removeprefix(ALGORITHM): v for k, v in tensors.items() if k.startswith(ALGORITHM)},
        **numbers,
    )


def _checkpoints(directory: Path) -> list[Path]:
    # A folder appears under its final name only when it is complete.
    return sorted(path for path in directory.glob("[0-9]*-[0-9]*") if path.is_dir())


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
