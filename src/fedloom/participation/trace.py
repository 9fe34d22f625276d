"""Availability traces: when which client can take part, read from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloom.data.readers import Record, read_file, suffix_of
from fedloom.errors import UserError, nearest

KEY = "federation.participation.availability_trace"
SUFFIXES = (".jsonl", ".csv", ".jsonl.gz")
_FIELDS = ("client", "from", "to")
# A time that went on to the start of an interval is in it, whatever rounding does: a microsecond, or 1e-6 rounds.
_TOLERANCE = 1e-6


class AvailabilityTrace:
    """Intervals [from, to) in which clients are available; after the last `to` they repeat (our choice).

    Args:
        clients: [intervals] int64, indices of clients.
        starts: [intervals] float64, from, in simulated seconds or rounds.
        ends: [intervals] float64, to, each above its start.
    """

    def __init__(self, clients: NDArray[np.int64], starts: NDArray[np.float64], ends: NDArray[np.float64]) -> None:
        self._clients = clients
        self._starts = starts
        self._ends = ends
        self._length = float(ends.max())

    def available(self, time: float) -> NDArray[np.int64]:
        """The clients that can take part.

        Args:
            time: in the trace's unit, from 0.

        Returns:
            [clients] int64, their indices, ascending.
        """
        within = (time + _TOLERANCE) % self._length
        return np.unique(self._clients[(self._starts <= within) & (within < self._ends)])

    def wait(self, time: float) -> float:
        """How long it takes until a client becomes available.

        Args:
            time: at which none is.

        Returns:
            The time to the next start of an interval.
        """
        return float(np.mod(self._starts - time, self._length).min())


def read_trace(file: str, clients: Sequence[str]) -> AvailabilityTrace:
    """Read a trace; clients that it doesn't name are never available.

    Args:
        file: JSON Lines or CSV with the fields client, from and to.
        clients: of the run, whose indices the trace holds.

    Returns:
        The trace.

    Raises:
        UserError: with file and line, for anything wrong in it.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{KEY}: no such file: {file}")
    if suffix_of(path) not in SUFFIXES:
        raise UserError(f"{KEY}: {file} is none of: {', '.join(SUFFIXES)}")
    index_of = {client: index for index, client in enumerate(clients)}
    rows = [_interval(record, index_of) for record in read_file(path)]
    if not rows:
        raise UserError(f"{KEY}: {file} holds no intervals")
    indices, starts, ends = zip(*rows, strict=True)
    return AvailabilityTrace(np.array(indices, dtype=np.int64), np.array(starts), np.array(ends))


def _interval(record: Record, index_of: dict[str, int]) -> tuple[int, float, float]:
    if record.values.keys() != set(_FIELDS):
        raise UserError(f"{KEY}: {record.origin} has the fields {', '.join(record.values)}, not {', '.join(_FIELDS)}")
    client = str(record.values["client"])
    if client not in index_of:
        close = nearest(client, index_of)
        raise UserError(
            f"{KEY}: {record.origin}: {client!r} is no training client",
            hint=f"did you mean {close!r}?" if close else None,
        )
    start, end = (_time(record, field) for field in ("from", "to"))
    if not 0 <= start < end - 2 * _TOLERANCE:
        raise UserError(f"{KEY}: {record.origin}: from {start:g} to {end:g} is no interval: needs 0 <= from < to")
    return index_of[client], start, end


def _time(record: Record, field: str) -> float:
    value = record.values[field]
    try:
        time = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        time = math.nan
    if not math.isfinite(time):
        raise UserError(f"{KEY}: {record.origin}: {field} is {value!r}, not a number")
    return time
