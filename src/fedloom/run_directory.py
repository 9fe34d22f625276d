"""The run directory: one place for a run's files, held by one process at a time, never half-written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from fedloom.errors import UserError
from fedloom.recipe import Recipe, load_recipe, recipe_yaml

RECIPE, EVENTS, METRICS, ADAPTER = "recipe.yaml", "events.jsonl", "metrics.json", "adapter"
CHECKPOINTS, CLIENTS, DATA, LAYERS, LOCK = "checkpoints", "clients", "data", "layers.json", ".lock"
REFERENCES = "references"
# All that a run can have left that was killed before its recipe was there whole.
BEFORE_RECIPE = {LOCK, f".{RECIPE}.partial"}


class RunDirectory:
    """A run's folder, locked while it is open (the lock goes with the process, however that ends).

    Args:
        path: the folder.
        recipe: what the run is.
        resume: go on with the run that is there; otherwise the folder must not hold one.

    Raises:
        UserError: where the folder can't be written, holds another run, or is in use.
    """

    def __init__(self, path: str | Path, recipe: Recipe, resume: bool) -> None:
        self.path = Path(path)
        self.recipe = recipe
        # Looked at before anything is created: a refused run leaves no trace.
        self.resuming = self._check_content(resume)
        self._created = self._make_writable()
        self._lock = open(self.path / LOCK, "w", encoding="utf-8")  # noqa: SIM115 - held until close
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"--out: another process is running in {self.path}") from None
        if not self.resuming:
            write_atomically(self.path / RECIPE, recipe_yaml(recipe))

    def _check_content(self, resume: bool) -> bool:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out: {self.path} is a file, not a folder")
        recipe_file = self.path / RECIPE
        if not recipe_file.is_file():
            if self.path.is_dir() and any(entry.name not in BEFORE_RECIPE for entry in self.path.iterdir()):
                raise UserError(f"--out: {self.path} is not empty and holds no run", hint="give a new folder")
            # A run killed before it wrote anything resumes from the beginning.
            return False
        if not resume:
            raise UserError(f"--out: {self.path} already holds a run", hint="go on with --resume, or give a new folder")
        stored = load_recipe(recipe_file)
        difference = first_difference(stored.model_dump(), self.recipe.model_dump())
        if difference is not None:
            key, old, new = difference
            raise UserError(
                f"--resume: {self.path} holds a run with {key}: {old!r}, this recipe says {new!r}",
                hint="resume with the recipe the run began with, or give a new folder",
            )
        return True

    def _make_writable(self) -> bool:
        """Create the folder and try it out; returns whether it was not there before."""
        created = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                # Room for at least a checkpoint's bookkeeping: a full disk shows now, not after an hour.
                probe.write(b"\0" * (1 << 20))
                probe.flush()
        except OSError as error:
            if created:
                _remove_empty(self.path)
            raise UserError(f"--out: can't write to {self.path}: {error.strerror}") from None
        return created

    def _withdraw(self) -> None:
        """Take away what a run refused before it began has left: its corrected recipe can have the folder."""
        shutil.rmtree(self.path / DATA, ignore_errors=True)
        for name in (EVENTS, RECIPE, LAYERS, LOCK):
            (self.path / name).unlink(missing_ok=True)
        if self._created:
            _remove_empty(self.path)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, UserError) and not self.resuming and not (self.path / CHECKPOINTS).exists():
            self._withdraw()
        self._lock.close()


def open_finished(path: str | Path) -> tuple[Path, Recipe]:
    """A folder that holds a run with a trained adapter.

    Args:
        path: the run directory.

    Returns:
        The folder and its recipe.

    Raises:
        UserError: where there is no run or no adapter yet.
    """
    folder = Path(path)
    if not (folder / RECIPE).is_file():
        raise UserError(f"{folder}: not a run directory (no {RECIPE})")
    # Written whole or not at all, in the format of its kind.
    if not (folder / ADAPTER).is_dir():
        raise UserError(f"{folder}: has no adapter yet", hint="finish it with fedloom run ... --resume")
    return folder, load_recipe(folder / RECIPE)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the process dies.

    Args:
        path: the file.
        content: text (UTF-8) or bytes.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, values: Any) -> None:
    """Write strict, indented JSON atomically.

    Args:
        path: the file.
        values: what to write.
    """
    write_atomically(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Find where two recipes are not the same run.

    Args:
        old: sections and keys of the one.
        new: of the other.
        key: of both, dotted.

    Returns:
        Key, old value and new value, or None.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            # Where a run is computed does not change what it computes; a resume may use other hardware.
            if not key and name in {"runtime", "trackers"}:
                continue
            found = first_difference(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if old == new else (key, old, new)
