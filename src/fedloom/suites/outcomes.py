"""Outcomes on disk, a line each as they come: what was once computed, or paid for, is never asked for again."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from fedloom.errors import UserError
from fedloom.suites.items import Outcome

# Below the run directory.
EVALUATIONS = "evaluations"


class OutcomeFile:
    """The outcomes of one task and subject; held by one process at a time.

    Args:
        path: the file; begun where it is not there.
        identity: what the outcomes follow from, by name, each a hash: the first line.

    Raises:
        UserError: where the file's outcomes follow from something else, or another process writes to it.
    """

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"{path}: another process is at work on it") from None
        try:
            self.done = self._read(dict(identity))
        except UserError:
            self._file.close()
            raise

    def append(self, outcome: Outcome) -> None:
        """Write an outcome down.

        Args:
            outcome: of an item that is not among those that are done.
        """
        self._write(asdict(outcome))
        self.done[outcome.key] = outcome

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self, identity: dict[str, str]) -> dict[str, Outcome]:
        self._file.seek(0)
        content = self._file.read()
        # What a killed process has written in part is cut off.
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            self._write(identity)
            return {}
        other = [name for name, value in identity.items() if lines[0].get(name) != value]
        if other:
            raise UserError(
                f"{self.path}: holds outcomes of another {' and '.join(other)}",
                hint="move the file away to begin this task anew",
            )
        outcomes = [Outcome(**{**line, "flags": tuple(line["flags"])}) for line in lines[1:]]
        return {outcome.key: outcome for outcome in outcomes}

    def _write(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> OutcomeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
