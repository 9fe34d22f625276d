"""Where records come from: files, folders, saved data sets, the hub, or the embedded pocket-tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedloom.data.readers import SUFFIXES, Record, optional_package, read_file, suffix_of
from fedloom.errors import UserError, nearest
from fedloom.recipe.data_schema import POCKET_TASKS

# owner/name, and after a colon the split.
_HUB_ID = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<split>[\w.-]+))?$")
_SAVED_MARKERS = ("dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True)
class Location:
    """One place records are read from.

    Args:
        kind: how it is read; "saved" is a folder written by `datasets`' save_to_disk.
        name: path or hub id.
    """

    kind: Literal["file", "saved", "hub", "pocket-tasks"]
    name: str


def locate(source: str | list[str], key: str = "data.source") -> list[Location]:
    """Resolve a recipe's source to places, without reading any record.

    Args:
        source: a file, a folder, a hub id, "pocket-tasks", or a list of these.
        key: the recipe key, for error messages.

    Returns:
        The places in the order given, files of a folder by name.

    Raises:
        UserError: for a missing file, an unknown suffix, a folder without data, a place named twice.
    """
    sources = [source] if isinstance(source, str) else source
    if not sources:
        raise UserError(f"{key}: the list is empty")
    locations = [location for one in sources for location in _locate_one(one, key)]
    for location, times in Counter(locations).items():
        if times > 1:
            raise UserError(f"{key}: {location.name} is named twice, so its records would count double")
    return locations


def read_locations(locations: list[Location], seed: int, key: str = "data.source") -> list[Record]:
    """Read every record of some places.

    Args:
        locations: from `locate`.
        seed: the recipe's seed, which pocket-tasks are generated from.
        key: the recipe key, for error messages.

    Returns:
        The records, place by place.

    Raises:
        UserError: where a place is empty, broken or not available.
    """
    records: list[Record] = []
    for location in locations:
        before = len(records)
        records.extend(_read(location, seed, key))
        if len(records) == before:
            raise UserError(f"{key}: {location.name} holds no records")
    return records


def content_digest(locations: list[Location], seed: int, key: str = "data.source") -> str:
    """Hash what some places hold, so that changed data is noticed.

    Args:
        locations: from `locate`.
        seed: the recipe's seed.
        key: the recipe key, for error messages.

    Returns:
        SHA-256 in hexadecimal over names and contents.

    Raises:
        UserError: where a place cannot be read.
    """
    digest = hashlib.sha256()
    for location in locations:
        digest.update(f"{location.kind}\x1f{location.name}\x1f".encode())
        if location.kind == "file":
            _hash_file(digest, Path(location.name))
        elif location.kind == "saved":
            for path in sorted(Path(location.name).rglob("*")):
                if path.is_file():
                    _hash_file(digest, path)
        elif location.kind == "hub":
            for split, dataset in _hub_splits(location.name, key):
                digest.update(f"{split}\x1f{dataset._fingerprint}\x1f".encode())
        else:
            digest.update(json.dumps(_pocket_rows(seed), sort_keys=True).encode())
    return digest.hexdigest()


def _hash_file(digest: Any, path: Path) -> None:
    try:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _locate_one(source: str, key: str) -> list[Location]:
    if source == POCKET_TASKS:
        return [Location("pocket-tasks", source)]
    if not source.strip():
        raise UserError(f"{key}: is empty")
    path = Path(source).expanduser()
    if path.is_dir():
        return _locate_folder(path, key)
    if path.is_file():
        if suffix_of(path) not in SUFFIXES:
            raise UserError(f"{key}: {path} has the unknown suffix {path.suffix!r}; known are {', '.join(SUFFIXES)}")
        return [Location("file", str(path))]
    # A path that starts in an existing folder, or ends like a file, was meant as a file.
    if _HUB_ID.match(source) and suffix_of(path) not in SUFFIXES and not path.parent.is_dir():
        return [Location("hub", source)]
    raise _missing(path, key)


def _locate_folder(folder: Path, key: str) -> list[Location]:
    if any((folder / marker).is_file() for marker in _SAVED_MARKERS):
        return [Location("saved", str(folder))]
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and suffix_of(path) in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise UserError(f"{key}: the folder {folder} holds no file with a suffix of {', '.join(SUFFIXES)}")
    return [Location("file", str(path)) for path in files]


def _missing(path: Path, key: str) -> UserError:
    if not path.parent.is_dir():
        return UserError(f"{key}: no such file: {path}", hint=f"the folder {path.parent} does not exist")
    names = {other.name: str(path.parent / other.name) for other in path.parent.iterdir()}
    if len(path.parts) == 1:
        names[POCKET_TASKS] = POCKET_TASKS
    close = nearest(path.name, names)
    return UserError(f"{key}: no such file: {path}", hint=f"did you mean {names[close]}?" if close else None)


def _read(location: Location, seed: int, key: str) -> Iterator[Record]:
    if location.kind == "file":
        yield from read_file(Path(location.name))
    elif location.kind == "pocket-tasks":
        for number, row in enumerate(_pocket_rows(seed), start=1):
            yield Record(dict(row), location.name, number)
    else:
        splits = _hub_splits if location.kind == "hub" else _saved_splits
        for split, dataset in splits(location.name, key):
            file = location.name if split is None else f"{location.name} {split}"
            for number, values in enumerate(dataset, start=1):
                # The split a data set comes with is a field like any other, for data.split.key.
                yield Record(values if split is None else {"split": split, **values}, file, number)


def _pocket_rows(seed: int) -> list[dict[str, str]]:
    # Imported here: the generator is of no use to a run on a person's own files.
    from fedloom.data.pocket_tasks import pocket_rows

    return pocket_rows(seed)


def _saved_splits(folder: str, key: str) -> list[tuple[str | None, Any]]:
    datasets = optional_package("datasets", f"{key}: reading the data set {folder}")
    try:
        return _by_split(datasets.load_from_disk(folder))
    except Exception as error:  # the library's own errors have no common class
        raise UserError(f"{key}: the data set in {folder} cannot be read: {_first_line(error)}") from None


def _hub_splits(name: str, key: str) -> list[tuple[str | None, Any]]:
    match = _HUB_ID.match(name)
    assert match is not None
    datasets = optional_package("datasets", f"{key}: loading {name} from the hub")
    try:
        return _by_split(datasets.load_dataset(match["name"], split=match["split"]))
    except Exception as error:  # network, missing repository, unknown split: no common class
        raise UserError(
            f"{key}: {name} is no file or folder here, and the hub did not provide it: {_first_line(error)}"
        ) from None


def _by_split(loaded: Any) -> list[tuple[str | None, Any]]:
    return list(loaded.items()) if isinstance(loaded, dict) else [(None, loaded)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
