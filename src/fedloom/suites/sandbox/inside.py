"""The process that a program runs in: shuts itself in, runs the program, and reports how that ended.

Started by `programs.py` in a Python of its own, for every program anew: it imports little, the standard library only.
It reads its job from standard input (JSON) and writes one line to the pipe whose number the job names: the job's nonce
and a reason.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import sys
import types
from collections.abc import Callable
from typing import Any

from fedloom.suites.sandbox.filter import restrict
from fedloom.suites.sandbox.kernel import die_with_parent, drop_privileges
from fedloom.suites.sandbox.namespaces import SCRATCH, enter
from fedloom.suites.sandbox.watch import watcher

FILE_NAME = "<program>"
# A message is for people: its beginning is enough.
LONGEST_MESSAGE = 200
# The reason where nothing was run.
NO_SANDBOX = "no_sandbox"
OPEN_FILES = 64
REASONS_OF_ERRORS = {
    errno.ENOMEM: "memory",
    errno.ENOSPC: "file_size",
    errno.EFBIG: "file_size",
    errno.EROFS: "wrote_outside",
}


def main() -> None:
    """Do the job on standard input; never returns."""
    job = json.load(sys.stdin)
    report, nonce = int(job["report"]), str(job["nonce"])

    def end(reason: str, detail: str = "", write: Callable[[int, bytes], int] = os.write) -> None:
        write(report, f"{nonce} {json.dumps([reason, detail])}\n".encode())
        leave(0)

    leave = os._exit
    try:
        scratch = shut_in(job)
    except OSError as error:
        end(NO_SANDBOX, str(error))
    sys.addaudithook(watcher(scratch, end))
    end(*run(str(job["program"])))


def shut_in(job: dict[str, Any]) -> str | None:
    """Bound this process, and isolate it if the job says so.

    Args:
        job: isolated, folders (what may be read), scratch_bytes, memory_bytes, cpu_seconds, file_bytes.

    Returns:
        The folder that may be written in, if any.

    Raises:
        OSError: where this machine does not allow it.
    """
    die_with_parent()
    if job["isolated"]:
        enter(job["folders"], int(job["scratch_bytes"]))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, int(job["report"]))
    os.closerange(int(job["report"]) + 1, 1024)
    # A signal that names the reason at the first limit, the end at the second.
    _bound(resource.RLIMIT_CPU, int(job["cpu_seconds"]), int(job["cpu_seconds"]) + 1)
    for limit, value in {
        resource.RLIMIT_AS: int(job["memory_bytes"]),
        resource.RLIMIT_FSIZE: int(job["file_bytes"]),
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }.items():
        _bound(limit, value, value)
    drop_privileges()
    restrict(writing=bool(job["isolated"]))
    return SCRATCH if job["isolated"] else None


def _bound(limit: int, soft: int, hard: int) -> None:
    """Set a limit, or leave the lower one that holds already."""
    held = resource.getrlimit(limit)[1]
    if held != resource.RLIM_INFINITY:
        soft, hard = min(soft, held), min(hard, held)
    resource.setrlimit(limit, (soft, hard))


def run(text: str) -> tuple[str, str]:
    """Run a program to its end.

    Args:
        text: Python source; every top-level statement must have been executed for it to pass.

    Returns:
        A reason ("passed", "failed", "memory", ...) and, for people, what went wrong.
    """
    # A module of its own, because dataclasses and pickle look theirs up; not __main__, whose block is no part of it.
    module = types.ModuleType("program")
    sys.modules["program"] = module
    random.seed(0)
    try:
        exec(compile(text, FILE_NAME, "exec"), module.__dict__)  # noqa: S102
    except MemoryError:
        return "memory", ""
    except SystemExit as error:
        return "exited", f"SystemExit: {error}"[:LONGEST_MESSAGE]
    except BaseException as error:
        number = error.errno if isinstance(error, OSError) else None
        return REASONS_OF_ERRORS.get(number or 0, "failed"), describe(error)
    return "passed", ""


def describe(error: BaseException) -> str:
    """An exception in one line: its kind, the program's line where there is one, the beginning of its message."""
    traceback, line = error.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == FILE_NAME:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    place = "" if line is None else f" (line {line})"
    try:
        message = str(error)
    except Exception:
        message = ""
    return f"{type(error).__name__}{place}: {message}"[:LONGEST_MESSAGE]
