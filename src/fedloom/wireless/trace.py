"""Channel gains read from a file, in place of drawn ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedloom.errors import UserError
from fedloom.wireless.channel import Values

KEY = "trace"
_FIELDS = ("round", "client", "gain_db")


@dataclass(frozen=True, eq=False)
class GainTrace:
    """Gains of every client in every round of a trace.

    Args:
        clients: names, in the order of the first round.
        gain_db: [rounds, clients] received over sent power, in decibels.
    """

    clients: tuple[str, ...]
    gain_db: Values


def read_gains(file: str) -> GainTrace:
    """Read a trace.

    Args:
        file: CSV or JSON Lines with the fields round, client and gain_db.

    Returns:
        The trace.

    Raises:
        UserError: with file and line, for anything wrong in it.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{KEY}: no such file: {file}")
    if path.suffix not in {".csv", ".jsonl"}:
        raise UserError(f"{KEY}: {file} is neither .csv nor .jsonl")
    rounds: dict[int, dict[str, float]] = {}
    for line, row in _rows(path):
        where = f"{KEY}: {path.name}:{line}"
        if set(row) != set(_FIELDS):
            raise UserError(f"{where} has the fields {', '.join(map(str, row))}, not {', '.join(_FIELDS)}")
        number, gain = _number(row["round"]), _number(row["gain_db"])
        if not (number >= 0 and number == int(number)):
            raise UserError(f"{where}: round is {row['round']!r}, not a whole number from 0 up")
        if not math.isfinite(gain):
            raise UserError(f"{where}: gain_db is {row['gain_db']!r}, not a number")
        gains, client = rounds.setdefault(int(number), {}), str(row["client"])
        if client in gains:
            raise UserError(f"{where}: {client!r} has a gain in round {int(number)} already")
        gains[client] = gain
    if not rounds:
        raise UserError(f"{KEY}: {file} holds no gains")
    clients = tuple(rounds.get(0, {}))
    for number in range(max(rounds) + 1):
        lacking = {name for gains in rounds.values() for name in gains} - rounds.get(number, {}).keys()
        if lacking:
            raise UserError(f"{KEY}: {file} has no gain of {min(lacking)!r} in round {number}")
    return GainTrace(clients, np.array([[rounds[number][name] for name in clients] for number in range(len(rounds))]))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(lines), start=2)
                return
            for line, text in enumerate(lines, start=1):
                if text.strip():
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise UserError(f"{KEY}: {path.name}:{line} is not a JSON object")
                    yield line, row
    except UnicodeDecodeError:
        raise UserError(f"{KEY}: {path} is not a UTF-8 text file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{KEY}: {path.name}:{line} is not JSON: {error.msg}") from None


def _number(value: object) -> float:
    try:
        found = math.nan if isinstance(value, bool) or value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return found if math.isfinite(found) else math.nan
