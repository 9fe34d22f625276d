"""Where records come from: files, folders, saved data sets, the hub, or the embedded pocket-tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from fedloom.data.readers import SUFFIXES, Record, optional_package, read_file, suffix_of
from fedloom.errors import UserError, nearest
from fedloom.randomness import numpy_generator
from fedloom.recipe.data_schema import POCKET_TASKS, SourceConfig

# owner/name, and after a colon the split.
_HUB_ID = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<split>[\w.-]+))?$")
# Tables people have, which are not read, and what to do with them.
_SAVE_AS_CSV = "save each sheet as CSV UTF-8"
_OTHER_TABLES = {
    ".xlsx": _SAVE_AS_CSV,
    ".xls": _SAVE_AS_CSV,
    ".ods": _SAVE_AS_CSV,
    ".tsv": "name it .csv: tabs are recognised",
    ".ndjson": "name it .jsonl",
    ".zip": "unpack it",
}
_SAVED_MARKERS = ("dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True)
class Location:
    """One place records are read from.

    Args:
        kind: how it is read; "saved" is a folder written by `datasets`' save_to_disk.
        name: path or hub id.
        source: the recipe's section on it, None where that is only a path.
    """

    kind: Literal["file", "saved", "hub", "pocket-tasks"]
    name: str
    source: SourceConfig | None = None

    @property
    def subset(self) -> str | None:
        """Of a hub id: its subset, None for the only one."""
        return None if self.source is None else self.source.subset


def locate(source: str | SourceConfig | Sequence[str | SourceConfig], key: str = "data.source") -> list[Location]:
    """Resolve a recipe's source to places, without reading any record.

    Args:
        source: a file, a folder, a hub id, "pocket-tasks", a section on one of these, or a list of all.
        key: the recipe key, for error messages.

    Returns:
        The places in the order given, files of a folder by name.

    Raises:
        UserError: for a missing file, an unknown suffix, a folder without data, a place named twice.
    """
    if isinstance(source, str | SourceConfig):
        return _locate_entry(source, key)
    if not source:
        raise UserError(f"{key}: the list is empty")
    entries = [(one, f"{key}.{at}.path" if isinstance(one, SourceConfig) else key) for at, one in enumerate(source)]
    locations = [location for one, place in entries for location in _locate_entry(one, place)]
    taken: set[tuple[str, str | None]] = set()
    for location in locations:
        # A file is the same by whichever path, or link, it is reached.
        here = location.kind in {"file", "saved"}
        place = str(Path(location.name).resolve()) if here else location.name, location.subset
        if place in taken:
            raise UserError(f"{key}: {location.name} is named twice, so its records would count double")
        taken.add(place)
    return locations


def read_locations(locations: list[Location], seed: int, key: str = "data.source") -> list[Record]:
    """Read every record of some places.

    Args:
        locations: from `locate`.
        seed: the recipe's seed, which pocket-tasks are generated from.
        key: the recipe key, for error messages.

    Returns:
        The records, place by place; of a source with an upper bound those drawn.

    Raises:
        UserError: where a place is empty, broken or not available.
    """
    records: list[Record] = []
    for section, places in groupby(locations, key=lambda location: location.source):
        found: list[Record] = []
        for location in places:
            before = len(found)
            found.extend(_read(location, seed, key))
            if len(found) == before:
                raise UserError(f"{key}: {location.name} holds no records")
        if section is not None:
            found = [replace(record, source=section) for record in _drawn(found, section, seed)]
        records.extend(found)
    return records


def _drawn(records: list[Record], section: SourceConfig, seed: int) -> list[Record]:
    """At most as many records as a section allows, in their order."""
    if section.examples is None or len(records) <= section.examples:
        return records
    # Keyed by what the source is called, not by where it lies or how many others there are.
    generator = numpy_generator(seed, "source", 0, Path(section.path).name)
    return [records[place] for place in sorted(generator.choice(len(records), section.examples, replace=False))]


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
            for split, dataset in _hub_splits(location, key):
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


def _locate_entry(source: str | SourceConfig, key: str) -> list[Location]:
    if isinstance(source, str):
        return _locate_one(source, key)
    found = [replace(location, source=source) for location in _locate_one(source.path, key)]
    if source.subset is not None and found[0].kind != "hub":
        raise UserError(f"{key}: subset {source.subset!r} has no effect on {source.path}, which is no hub id")
    return found


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
            raise UserError(
                f"{key}: {path} has the unknown suffix {path.suffix!r}; known are {', '.join(SUFFIXES)}",
                hint=_OTHER_TABLES.get(path.suffix.lower()),
            )
        return [Location("file", str(path))]
    # A path that starts in an existing folder, or ends like a file, was meant as a file.
    if _HUB_ID.match(source) and suffix_of(path) not in SUFFIXES and not path.parent.is_dir():
        return [Location("hub", source)]
    raise _missing(path, key)


def _locate_folder(folder: Path, key: str) -> list[Location]:
    if any((folder / marker).is_file() for marker in _SAVED_MARKERS):
        return [Location("saved", str(folder))]
    everything = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    for path in everything:
        # A note may lie beside the data; a table left out would be a client left out, and nobody would know.
        if (hint := _OTHER_TABLES.get(path.suffix.lower())) is not None:
            raise UserError(f"{key}: {path} would be left out: {path.suffix} files are not read", hint=hint)
    files = [path for path in everything if suffix_of(path) in SUFFIXES]
    if not files:
        raise UserError(f"{key}: the folder {folder} holds no file with a suffix of {', '.join(SUFFIXES)}")
    return [Location("file", str(path)) for path in files]


def _missing(path: Path, key: str) -> UserError:
    if not path.parent.is_dir():
        seen = "" if path.is_absolute() else f", seen from the current folder {Path.cwd()}"
        return UserError(f"{key}: no such file: {path}", hint=f"the folder {path.parent} does not exist{seen}")
    names = {other.name: str(path.parent / other.name) for other in path.parent.iterdir()}
    if "," in path.name:
        parts = ", ".join(part.strip() for part in str(path).split(","))
        return UserError(f"{key}: no such file: {path}", hint=f"several files are a list: [{parts}]")
    if len(path.parts) == 1:
        names[POCKET_TASKS] = POCKET_TASKS
    close = nearest(path.name, names)
    hint = f"did you mean {names[close]}?" if close else None
    if hint is None and not path.is_absolute():
        # Also of a finished run that is looked at from elsewhere.
        hint = f"it is looked for in the current folder, {Path.cwd()}"
    return UserError(f"{key}: no such file: {path}", hint=hint)


def _read(location: Location, seed: int, key: str) -> Iterator[Record]:
    if location.kind == "file":
        yield from read_file(Path(location.name))
    elif location.kind == "pocket-tasks":
        for number, row in enumerate(_pocket_rows(seed), start=1):
            yield Record(dict(row), location.name, number)
    else:
        splits = _hub_splits if location.kind == "hub" else _saved_splits
        for split, dataset in splits(location, key):
            file = location.name if split is None else f"{location.name} {split}"
            for number, values in enumerate(dataset, start=1):
                # The split a data set comes with is a field like any other, for data.split.key.
                yield Record(values if split is None else {"split": split, **values}, file, number)


def _pocket_rows(seed: int) -> list[dict[str, str]]:
    # Imported here: the generator is of no use to a run on a person's own files.
    from fedloom.data.pocket_tasks import pocket_rows

    return pocket_rows(seed)


def _saved_splits(location: Location, key: str) -> list[tuple[str | None, Any]]:
    folder = location.name
    datasets = optional_package("datasets", f"{key}: reading the data set {folder}")
    try:
        return _by_split(datasets.load_from_disk(folder))
    except Exception as error:  # the library's own errors have no common class
        raise UserError(f"{key}: the data set in {folder} cannot be read: {_first_line(error)}") from None


def _hub_splits(location: Location, key: str) -> list[tuple[str | None, Any]]:
    name, match = location.name, _HUB_ID.match(location.name)
    assert match is not None
    datasets = optional_package("datasets", f"{key}: loading {name} from the hub")
    try:
        return _by_split(datasets.load_dataset(match["name"], name=location.subset, split=match["split"]))
    except Exception as error:  # network, missing repository, unknown split: no common class
        raise UserError(
            f"{key}: {name} is no file or folder here, and the hub did not provide it: {_first_line(error)}"
        ) from None


def _by_split(loaded: Any) -> list[tuple[str | None, Any]]:
    return list(loaded.items()) if isinstance(loaded, dict) else [(None, loaded)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
