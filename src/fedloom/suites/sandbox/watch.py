"""What a program tried that it may not do: told from Python's audit events (PEP 578), so that its end has a reason.

This names things; what keeps the program from doing them is the kernel (namespaces.py, filter.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

NETWORK = {
    "socket.__new__",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.getnameinfo",
    "socket.sendto",
}
PROCESSES = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "subprocess.Popen",
}
SIGNALS = {"os.kill", "os.killpg"}
# Audit events of changes to files, and how many of their first arguments are paths.
CHANGES = {
    "os.chflags": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.removexattr": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.setxattr": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def forbidden(event: str, arguments: tuple[Any, ...], scratch: str | None) -> str | None:
    """Whether an audit event is an attempt at what programs may not do.

    Args:
        event: its name.
        arguments: what Python gives with it.
        scratch: the folder that the program may write in, if any.

    Returns:
        The reason that the program is ended with, or None.
    """
    if event in NETWORK:
        return "network"
    if event in PROCESSES:
        return "processes"
    if event in SIGNALS and arguments[0] != os.getpid():
        return "signal"
    if event == "open" and len(arguments) > 2 and isinstance(arguments[2], int) and arguments[2] & WRITING:
        return _outside(arguments[:1], scratch)
    if event in CHANGES:
        return _outside(arguments[: CHANGES[event]], scratch)
    return None


def watcher(scratch: str | None, end: Callable[[str], None]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that ends the program at its first forbidden attempt.

    Args:
        scratch: see `forbidden`.
        end: ends the process with a reason; does not return.
    """

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        reason = forbidden(event, arguments, scratch)
        if reason is not None:
            end(reason)

    return watch


def _outside(paths: tuple[Any, ...], scratch: str | None) -> str | None:
    for path in paths:
        # A number is an open file, which was asked about when it was opened.
        if isinstance(path, (str, bytes)):
            real = os.path.realpath(os.fsdecode(path))
            within = scratch is not None and (real == scratch or real.startswith(scratch + os.sep))
            if not within and real != os.devnull:
                return "wrote_outside"
    return None
