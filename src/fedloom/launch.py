"""Starting the processes of a distributed run on this machine, and ending all of them when one is gone.

The processes are told what to do through their standard input, one line of JSON, and they answer there how they ended.
It stays open while they run: it closes with this process, however that ends, and they end with it (`rank.py`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from fedloom.errors import ProcessLost, UserError
from fedloom.places import Place
from fedloom.recipe import Recipe, recipe_yaml

POLL_SECONDS = 0.05
# How long a process that lost another may be waited with until the other's end is seen.
CAUSE_SECONDS = 5.0
# How long a process gets between being asked to end and being killed.
ENDING_SECONDS = 3.0
# What a process exits with that has answered how it ended.
TOLD = 3


class Child:
    """A process that was started to do a task, and the line to it.

    Args:
        rank: its number, from 0.
        task: what it does, see `rank.py`; JSON.
        environment: its environment variables.
    """

    def __init__(self, rank: int, task: dict[str, Any], environment: dict[str, str]) -> None:
        self.rank = rank
        self._line, its_end = socket.socketpair()
        with its_end:
            # A group of its own: Ctrl-C reaches this process only, which then ends the others.
            command = [sys.executable, "-m", "fedloom.rank"]
            self.process = subprocess.Popen(command, stdin=its_end.fileno(), env=environment, process_group=0)
        self._line.sendall(json.dumps(task).encode() + b"\n")

    @cached_property
    def answer(self) -> dict[str, Any]:
        """How a process that exited with TOLD says it ended."""
        with self._line.makefile(encoding="utf-8") as lines:
            values: dict[str, Any] = json.loads(lines.readline())
        return values

    def end(self) -> None:
        """See to it that the process is gone; it was asked to end."""
        try:
            self.process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._line.close()


def launch(recipe: Recipe, out: str | Path, resume: bool, seeds: int, show: bool) -> None:
    """Carry out a recipe in several processes on this machine.

    Args:
        recipe: of kind distributed.
        out: the run directory.
        resume: see `runs.run`.
        seeds: see `runs.run`.
        show: see `runs.run`.

    Raises:
        UserError: for any mistake that a process found.
        ProcessLost: naming the process that died and how.
    """
    size = recipe.runtime.processes
    if size is None:
        raise UserError(
            "runtime.processes: is required for runtime.kind distributed, unless torchrun starts the processes",
            hint="give --processes N",
        )
    task = {"recipe": recipe_yaml(recipe), "out": str(out), "resume": resume, "seeds": seeds, "show": show}
    # All of them are on this machine: nothing need be reachable from outside.
    environment = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **os.environ}
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="fedloom-") as folder:
        meeting_point = (Path(folder) / "meeting_point").as_uri()
        try:
            for rank in range(size):
                place = asdict(Place(rank, size, rank, size, meeting_point))
                children.append(Child(rank, {"place": place, **task}, environment))
            _watch(children)
        finally:
            for child in children:
                child.process.terminate()
            for child in children:
                child.end()
            if show and sys.stdout.isatty():
                # A progress bar that was not allowed to finish has left the cursor hidden.
                sys.stdout.write("\x1b[?25h")


def _watch(children: Sequence[Child]) -> None:
    """Wait until all processes have ended well, or raise what the first one that did not has met."""
    deadline: float | None = None
    while True:
        ended = [child for child in children if child.process.poll() is not None]
        failed = [child for child in ended if child.process.returncode]
        if not failed:
            if len(ended) == len(children):
                return
        else:
            deadline = deadline or time.monotonic() + CAUSE_SECONDS
            for child in failed:
                _raise_cause(child, len(children), final=time.monotonic() > deadline)
        time.sleep(POLL_SECONDS)


def _raise_cause(child: Child, size: int, final: bool) -> None:
    """Raise how a process ended; not yet where it only lost another one, unless it is the final word."""
    code, which = child.process.returncode, f"process {child.rank} (of {size}, numbered from 0)"
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        raise ProcessLost(f"{which} was killed by {name}{memory}; the run has ended", hint="go on with --resume")
    if code != TOLD:
        raise ProcessLost(f"{which} failed with exit code {code}; the run has ended", hint="go on with --resume")
    answer = child.answer
    if answer["kind"] == "mistake":
        raise UserError(answer["message"], answer["hint"])
    if final:
        raise ProcessLost(f"{which}: {answer['message']}", answer["hint"])
