"""Programs run outside this process, shut in and bounded, several side by side; each ends with a reason."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import fedloom
from fedloom.errors import UserError
from fedloom.suites.sandbox.inside import NO_SANDBOX

Level = Literal["isolated", "weak"]
KEPT_OUTPUT = 4096
CHUNK = 65536
START = "from fedloom.suites.sandbox.inside import main; main()"
# How long a process gets to end whose program has ended.
ENDING_SECONDS = 60.0


@dataclass(frozen=True)
class Bounds:
    """What a program may use.

    Args:
        cpu_seconds: of a processor, whole seconds; a busy machine does not change what is in time.
        wall_seconds: of the clock; ends programs that wait, and leaves room for a machine that is busy.
        memory_bytes: address space.
        file_bytes: size of one file.
        scratch_bytes: size of the scratch folder.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 60.0
    memory_bytes: int = 2**30
    file_bytes: int = 2**24
    scratch_bytes: int = 2**26


class NoSandbox(UserError):
    """A program could not be shut in, and was not run."""


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    Args:
        reason: "passed", "failed" (an exception), "timeout", "memory", "processes", "network", "wrote_outside",
            "file_size", "signal" (it tried to send one to others), "exited" (before its last statement), "killed" (by
            a signal).
        detail: the exception, the signal; may be empty.
        output: the first 4096 bytes of what it printed.
    """

    reason: str
    detail: str = ""
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end, every assertion held."""
        return self.reason == "passed"


def run_programs(
    programs: Iterable[str], level: Level, bounds: Bounds = Bounds(), side_by_side: int | None = None
) -> Iterator[Verdict]:
    """Run programs, several at a time.

    Args:
        programs: Python source of each.
        level: see `level.py`.
        bounds: for each of them.
        side_by_side: how many at a time; None: one for each core of this process.

    Returns:
        Their verdicts in the order of the programs, whichever ends first.
    """
    workers = side_by_side or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
        yield from pool.map(lambda program: run_program(program, level, bounds), programs)


def run_program(program: str, level: Level, bounds: Bounds = Bounds()) -> Verdict:
    """Run one program in a process of its own and see to it that nothing of it is left.

    Args:
        program: Python source. It passes if its last statement was executed: the process that runs it then writes a
            number nobody could guess to a pipe, so neither its exit status nor its output counts.
        level: see `level.py`.
        bounds: what it may use.

    Returns:
        How it ended.

    Raises:
        NoSandbox: where the machine does not let the process shut itself in.
    """
    # Not to be guessed, so not from a seed; no result depends on it.
    nonce = secrets.token_hex(16)
    reading, writing = os.pipe()
    job = {
        "program": program,
        "nonce": nonce,
        "report": writing,
        "isolated": level == "isolated",
        "folders": readable_folders(),
        "cpu_seconds": bounds.cpu_seconds,
        "memory_bytes": bounds.memory_bytes,
        "file_bytes": bounds.file_bytes,
        "scratch_bytes": bounds.scratch_bytes,
    }
    with open(os.memfd_create("job"), "wb+") as file:
        file.write(json.dumps(job).encode())
        file.seek(0)
        process = subprocess.Popen(
            # Without the user's settings, and without what packages run at every start (site).
            [sys.executable, "-s", "-P", "-S", "-B", "-u", "-c", START],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            env=environment(),
            process_group=0,
        )
    os.close(writing)
    try:
        report, output, in_time = _read(process, reading, bounds.wall_seconds)
        # Nobody has the pipes any more: the processes that wait for the program are about to end as it did.
        in_time = in_time and _ends(process)
    finally:
        os.close(reading)
        process.kill()
        process.wait()
    return _verdict(report, nonce, output, process.returncode, in_time)


def environment() -> dict[str, str]:
    """The environment of a program: nothing of this process's own but where Python finds modules."""
    return {
        "PYTHONPATH": os.pathsep.join(import_folders()),
        # Sets of strings have one order, so that a program does the same whenever it runs.
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
        "HOME": "/tmp",
    }


def import_folders() -> list[str]:
    """Where Fedloom and the packages installed beside NumPy are, which programs may import."""
    folders = [Path(fedloom.__file__).parents[1]]
    numpy = importlib.util.find_spec("numpy")
    if numpy is not None and numpy.origin is not None:
        folders.append(Path(numpy.origin).parents[1])
    return [str(folder.resolve()) for folder in folders]


def readable_folders() -> list[str]:
    """What of the file system Python itself needs, without symbolic links."""
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    folders += [os.path.join(sys.base_prefix, "lib"), *import_folders()]
    return sorted({os.path.realpath(folder) for folder in folders})


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _read(process: subprocess.Popen[bytes], reading: int, seconds: float) -> tuple[bytes, bytes, bool]:
    """Collect the report and the beginning of the output until the program has ended or its time is up."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    kept = {reading: b"", process.stdout.fileno(): b""}
    with process.stdout, selectors.DefaultSelector() as selector:
        for number in kept:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, CHUNK)
                if not chunk:
                    selector.unregister(key.fd)
                # More is read, so that the program goes on, and forgotten.
                kept[key.fd] = (kept[key.fd] + chunk)[:KEPT_OUTPUT]
        report, output = kept.values()
        return report, output, not selector.get_map()


def _verdict(report: bytes, nonce: str, output: bytes, code: int, in_time: bool) -> Verdict:
    text = output.decode(errors="replace")
    for line in report.decode(errors="replace").splitlines():
        if line.startswith(nonce):
            reason, detail = json.loads(line.removeprefix(nonce))
            if reason == NO_SANDBOX:
                raise NoSandbox(f"the sandbox for programs can't be set up: {detail}")
            return Verdict(reason, detail, text)
    if not in_time:
        return Verdict("timeout", "", text)
    # A process that waited for the program exits with 128 and the signal's number.
    number = -code if code < 0 else code - 128
    if number == signal.SIGXCPU:
        return Verdict("timeout", "", text)
    if number in set(signal.Signals):
        return Verdict("killed", signal.Signals(number).name, text)
    return Verdict("exited", f"exit status {code}", text)
