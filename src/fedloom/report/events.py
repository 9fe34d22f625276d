"""The event log: one line of strict JSON per event, written so that a killed run loses at most one line."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedloom.errors import UserError

Event = dict[str, Any]
Listener = Callable[[Event], None]


def strict_json(value: Any) -> Any:
    """A copy of a value that standard JSON can hold, so that any reader can parse the log.

    Args:
        value: nested mappings, sequences, numbers (NumPy and torch scalars too), strings and paths.

    Returns:
        The same with plain Python types; non-finite floats become None.

    Raises:
        TypeError: for anything else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): strict_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [strict_json(item) for item in items]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy and torch, without importing either
        return strict_json(value.tolist())
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r}")


class EventLog:
    """An append-only `events.jsonl`; every line is on disk before `append` returns.

    Args:
        path: the file, created at the first event. A torn last line from a killed run is overwritten.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._listeners: list[Listener] = []
        self._position = _end_of_last_line(self.path)

    @property
    def position(self) -> int:
        """The byte offset after the last complete line: what a checkpoint stores."""
        return self._position

    def add_listener(self, listener: Listener) -> None:
        """Call a function with every event from now on (progress, trackers).

        Args:
            listener: takes one event; if it raises, it is dropped with a warning and the run goes on.
        """
        self._listeners.append(listener)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and tell the listeners.

        Args:
            event: the kind of event, such as "round".
            fields: what else to record, see `strict_json` for the types.

        Returns:
            The event as written, with its time.
        """
        record: Event = strict_json({"event": event, "time": time.time(), **fields})
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._position)
            file.seek(self._position)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._position += len(line)
        self._tell(record)
        return record

    def truncate(self, position: int) -> None:
        """Cut everything after a checkpoint, so that a resumed run does not record rounds twice.

        Args:
            position: a former value of `position`.

        Raises:
            UserError: if this is not the end of a line of this log.
        """
        if not 0 <= position <= self._position:
            raise UserError(f"{self.path}: cannot cut at byte {position}, the log ends at {self._position}")
        if position > 0:
            with open(self.path, "rb") as file:
                file.seek(position - 1)
                if file.read(1) != b"\n":
                    raise UserError(f"{self.path}: byte {position} is inside a line")
        if self.path.exists():
            os.truncate(self.path, position)
        self._position = position

    def _tell(self, record: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(record)
            except Exception as error:  # a full disk at a tracker must not end hours of training
                self._listeners.remove(listener)
                warnings.warn(f"{listener!r} failed and gets no more events: {error!r}", stacklevel=3)


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """All complete events of a log, also while another process is writing it.

    Args:
        path: the `events.jsonl`.

    Returns:
        The events in order; a last line without its newline is ignored; empty if there is no file.

    Raises:
        UserError: if a complete line is not a JSON object.
    """
    file = Path(path)
    if not file.exists():
        return []
    events: list[Event] = []
    complete = file.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(complete, start=1):
        try:
            event = json.loads(line)
        except ValueError as error:  # of JSON or of UTF-8
            raise UserError(f"{file}: line {number} is not JSON: {error}") from error
        if not isinstance(event, dict):
            raise UserError(f"{file}: line {number} is not a JSON object")
        events.append(event)
    return events


def _end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
