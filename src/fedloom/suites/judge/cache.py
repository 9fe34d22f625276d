"""What has been paid for: every reply of the judge, on disk before it is used."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedloom.errors import UserError


@dataclass(frozen=True)
class Reply:
    """What an endpoint has answered.

    Args:
        text: the judge's words.
        model: the model that answered, by the endpoint's own account.
        prompt_tokens: tokens read, None where the endpoint does not say.
        completion_tokens: tokens written, None where the endpoint does not say.
    """

    text: str
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def request_key(model: str, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any], attempt: int) -> str:
    """The address of a request's reply.

    Args:
        model: the judging model's name.
        messages: role and content of each.
        settings: what else the request says.
        attempt: 0, or which repetition this is of a request whose reply held no verdict.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    content = {"model": model, "messages": list(messages), "settings": settings, "attempt": attempt}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """Replies by their request's key, in a file of JSON lines that only grows.

    A line is on disk when `put` returns. A torn last line, of a process killed while writing, is cut off when the file
    is opened. One process at a time holds the file, so that two never pay for the same judgement.

    Args:
        path: the file; created where it is missing.

    Raises:
        UserError: where another process holds it, or a line is not one of ours.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._writing = threading.Lock()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise UserError(f"{path}: another process is judging with it") from None
        content = path.read_bytes()
        self._end = content.rfind(b"\n") + 1
        os.ftruncate(self._file, self._end)
        try:
            self._replies = dict(self._read(content[: self._end]))
        except UserError:
            self.close()
            raise

    def _read(self, lines: bytes) -> Iterator[tuple[str, Reply]]:
        for number, line in enumerate(lines.split(b"\n")[:-1], start=1):
            try:
                values = json.loads(line)
                yield values.pop("key"), Reply(**values)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self._path}:{number}: is not a judge's reply", hint="delete that line") from None

    def get(self, key: str) -> Reply | None:
        """Look up a reply.

        Args:
            key: of `request_key`.

        Returns:
            The reply, or None where none was received.
        """
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is on disk when this returns.

        Args:
            key: of `request_key`.
            reply: what was answered.
        """
        line = json.dumps({"key": key, **asdict(reply)}).encode() + b"\n"
        with self._writing:
            # A line that a full disk has cut is written over by the next.
            if os.pwrite(self._file, line, self._end) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(self._file)
            self._end += len(line)
            self._replies[key] = reply

    def replies(self) -> list[Reply]:
        """All replies that were ever received, in the order they came."""
        return list(self._replies.values())

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)
