"""Records out of one file: JSON lines, JSON, CSV and parquet, with errors that name file and line."""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.errors import UserError
from fedloom.recipe.data_schema import SourceConfig

# Text fields of instruction data outgrow the csv module's default of 128 KiB.
LONGEST_CSV_FIELD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source, and where it stands there.

    Args:
        values: the fields by name, as the file holds them.
        file: name of the file or data set.
        position: line or record number, from 1.
        by_line: whether position counts lines.
        source: the recipe's section on its source, None where that is only a path.
    """

    values: dict[str, Any]
    file: str
    position: int
    by_line: bool = False
    source: SourceConfig | None = None

    @property
    def origin(self) -> str:
        """Where the record stands, for error messages."""
        return f"{self.file}:{self.position}" if self.by_line else f"{self.file}: record {self.position}"


def optional_package(module: str, purpose: str, extra: str = "data") -> Any:
    """Import a package of an optional extra.

    Args:
        module: name of the module.
        purpose: what needs it, the first words of the error.
        extra: which one has it.

    Returns:
        The module.

    Raises:
        UserError: with the pip command, when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f'pip install "fedloom[{extra}]"',
        ) from None


def read_file(path: Path) -> Iterator[Record]:
    """Read the records of one file.

    Args:
        path: an existing file with one of `SUFFIXES`.

    Yields:
        The records in the file's order.

    Raises:
        UserError: where the file is broken.
    """
    reader = _READERS[suffix_of(path)]
    try:
        yield from reader(path)
    except OSError as error:  # gzip.BadGzipFile is one too
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error):
        raise UserError(f"{path}: the compressed file is cut off or damaged") from None


def suffix_of(path: Path) -> str:
    """Find the file's suffix as the readers know it, e.g. ".jsonl.gz"."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix.lower())


def stem_of(file: str) -> str:
    """Strip a file's name of its folder and known suffix."""
    path = Path(file)
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.name


def _decode(data: bytes, path: Path, first_line: int = 1) -> str:
    try:
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise UserError(f"{path}:{line}: not UTF-8 text", hint=_encoding_hint(data, error.start, path)) from None


def _encoding_hint(data: bytes, place: int, path: Path) -> str:
    # Not guessed and read: a wrong guess would put wrong letters into the training text.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"it looks like UTF-16: iconv -f UTF-16 -t UTF-8 {path.name} > new.{path.name}"
    letter = data[place : place + 1].decode("cp1252", errors="replace")
    return f"if {letter!r} belongs there, it is Windows-1252: iconv -f CP1252 -t UTF-8 {path.name} > new.{path.name}"


def _read_json_lines(path: Path) -> Iterator[Record]:
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            text = _decode(raw, path, number).strip()
            if not text:
                continue
            try:
                values = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not valid JSON: {_lower(error.msg)}") from None
            except RecursionError:
                raise UserError(f"{path}:{number}: the JSON is nested too deeply") from None
            yield Record(_require_object(values, f"{path}:{number}"), str(path), number, by_line=True)


def _read_json(path: Path) -> Iterator[Record]:
    text = _decode(path.read_bytes(), path)
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "JSON lines belong in a file named .jsonl" if error.msg == "Extra data" else None
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {_lower(error.msg)}", hint=hint) from None
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise UserError(
            f'{path}: expected a list of objects or {{"data": [...]}}, got {_kind(content)}',
        )
    for number, values in enumerate(content, start=1):
        yield Record(_require_object(values, f"{path}: record {number}"), str(path), number)


def _read_csv(path: Path) -> Iterator[Record]:
    text = _decode(path.read_bytes(), path)
    before = csv.field_size_limit(LONGEST_CSV_FIELD)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
        header = next(rows, [])
        if len(set(header)) < len(header):
            double = next(name for name in header if header.count(name) > 1)
            raise UserError(f"{path}:1: the column {double!r} appears twice")
        line = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}:{line}: {len(row)} values for {len(header)} columns",
                    hint="a value that holds the separator or a line break belongs in double quotes",
                )
            if row:
                yield Record(dict(zip(header, row, strict=True)), str(path), line, by_line=True)
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    """What separates a header's columns: whichever of comma, semicolon and tab gives the most; a comma if none does."""
    columns = {
        delimiter: len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        for delimiter in (",", ";", "\t")
    }
    return max(columns, key=lambda delimiter: columns[delimiter])


def _read_parquet(path: Path) -> Iterator[Record]:
    parquet = optional_package("pyarrow.parquet", f"{path}: reading parquet")
    arrow = optional_package("pyarrow", f"{path}: reading parquet")
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Record(values, str(path), number)
    except arrow.ArrowException as error:
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from None


def _require_object(values: Any, origin: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{origin}: expected an object with named fields, got {_kind(values)}")
    return values


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
