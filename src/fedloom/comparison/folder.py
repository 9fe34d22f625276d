"""A comparison's folder: what was asked for, held by one command at a time, and the units of work in it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedloom.comparison.cells import CELLS, Cell
from fedloom.comparison.plan import Arguments, Plan
from fedloom.comparison.same_files import FINGERPRINTS
from fedloom.comparison.tuning import TUNING, Tuning
from fedloom.errors import UserError, disk_error
from fedloom.recipe import load_recipe
from fedloom.run_directory import DATA, LOCK, first_difference, write_json

ARGUMENTS, CLAIMS = "arguments.json", "claims"
# All that a comparison can have left that was killed before its arguments were there whole.
BEFORE_ARGUMENTS = {LOCK, f".{ARGUMENTS}.partial"}

Unit = Cell | Tuning


@contextmanager
def opened(folder: Path, arguments: Arguments, resume: bool) -> Iterator[None]:
    """Hold a comparison's folder; the lock goes with the process, however that ends.

    Args:
        folder: the comparison's.
        arguments: what was asked for.
        resume: go on with the comparison that is there; otherwise the folder must be new or empty.

    Raises:
        UserError: where the folder can't be written, is in use, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: {folder} is a file, not a folder")
    stored = folder / ARGUMENTS
    if stored.is_file():
        if not resume:
            raise UserError(
                f"--out: {folder} already holds a comparison", hint="go on with --resume, or give a new folder"
            )
        _check_same(folder, read_arguments(folder), arguments)
    elif folder.is_dir() and any(entry.name not in BEFORE_ARGUMENTS for entry in folder.iterdir()):
        raise UserError(f"--out: {folder} is not empty and holds no comparison", hint="give a new folder")
    resuming, created = stored.is_file(), not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"--out: can't write to {folder}: {error.strerror}") from None
    with lock:
        if not _locked(lock):
            raise UserError(f"--out: another process is running in {folder}")
        if not resuming:
            # First of all: from here on the folder holds a comparison, whenever this process dies.
            write_json(stored, arguments.as_json())
        (folder / CLAIMS).mkdir(exist_ok=True)
        try:
            yield
        except UserError:
            if not resuming and not (folder / CELLS).exists() and not (folder / TUNING).exists():
                _withdraw(folder, created)
            raise


def _withdraw(folder: Path, created: bool) -> None:
    """Take away what a comparison refused before it began has left: its corrected command can have the folder."""
    for name in (DATA, CLAIMS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (ARGUMENTS, FINGERPRINTS, LOCK):
        (folder / name).unlink(missing_ok=True)
    if created:
        with suppress(OSError):
            folder.rmdir()


def read_arguments(folder: Path) -> Arguments:
    """Read what a comparison was asked for.

    Args:
        folder: the comparison's.

    Returns:
        The arguments.

    Raises:
        UserError: where the file is damaged.
    """
    try:
        return Arguments(**json.loads((folder / ARGUMENTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / ARGUMENTS}: can't be read: {error}") from None


def units_of(folder: Path, plan: Plan) -> list[Unit]:
    """Everything there is to do, in the order in which it is best begun.

    Args:
        folder: the comparison's.
        plan: what is run.

    Returns:
        Tunings, then cells: runs over the same base model and data side by side.
    """
    tunings: dict[str, Tuning] = {}
    if plan.tuning_seed is not None:
        for subject in plan.subjects:
            if subject.candidates:
                tunings[subject.label] = Tuning(folder, subject, plan.tuning_seed)
    models = [subject.recipe.model.model_dump_json() for subject in plan.subjects]
    cells = [
        (models.index(subject.recipe.model.model_dump_json()), Cell(folder, subject, seed, tunings.get(subject.label)))
        for seed in plan.seeds
        for subject in plan.subjects
    ]
    return [*tunings.values(), *(cell for _, cell in sorted(cells, key=lambda pair: pair[0]))]


@contextmanager
def claimed(folder: Path, unit: Unit) -> Iterator[bool]:
    """Try to be the one process at work on a unit.

    Args:
        folder: the comparison's.
        unit: a cell or a tuning.

    Yields:
        Whether this process is; a claim ends with the process that held it.
    """
    with open(folder / CLAIMS / unit.claim, "w", encoding="utf-8") as file:
        yield _locked(file)


def _locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise disk_error(error) or error from None
    return True


def _check_same(folder: Path, old: Arguments, new: Arguments) -> None:
    before, now = (load_recipe(one.recipe, one.overrides).model_dump() for one in (old, new))
    found = first_difference(_options(old), _options(new)) or first_difference(before, now)
    if found is not None:
        key, stored, given = found
        raise UserError(
            f"--resume: {folder} holds a comparison with {key}: {stored!r}, this command says {given!r}",
            hint="resume with the arguments the comparison began with, or give a new folder",
        )


def _options(arguments: Arguments) -> dict[str, Any]:
    """All but the recipe, which is compared with its defaults filled in."""
    tune = {key: values or "around the recipe's" for key, values in arguments.tune.items()}
    options = {**arguments.as_json(), "tune": tune}
    return {key: value for key, value in options.items() if key not in {"recipe", "overrides"}}
