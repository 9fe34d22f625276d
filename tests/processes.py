"""Commands and runs in other processes than the test's: killed in the middle, or shared between two."""

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.cli import main

Values = dict[str, Any]

# Processes that fork from one that has loaded everything, and computed nothing yet.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["fedloom.session", "fedloom.runs", "peft"])


def carry_out(line: str) -> None:
    """Run a command line of a page; those of fedloom in this process, which has the libraries loaded.

    Args:
        line: as one would type it in the current folder.
    """
    if not line.startswith("fedloom "):
        subprocess.run(["sh", "-c", line], check=True)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", shlex.split(line, comments=True))
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, line


class Command:
    """A command line at work in a process of its own, which need not load the libraries first.

    Args:
        arguments: what stands behind `fedloom`.
        before: called in the process before the command.
    """

    def __init__(self, *arguments: object, before: Callable[[], None] | None = None) -> None:
        # Goes with this object.
        self._output = tempfile.NamedTemporaryFile()  # noqa: SIM115
        self.process = forked.Process(target=_command, args=(list(map(str, arguments)), self._output.name, before))
        self.process.start()

    def kill(self) -> bool:
        """Kill it; returns whether it was still at work."""
        self.process.kill()
        return self.ended_by_a_kill()

    def ended_by_a_kill(self) -> bool:
        """Wait for its end."""
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def finish(self) -> None:
        """Wait for its end, which has to be a good one."""
        self.process.join(300)
        assert self.process.exitcode == 0, Path(self._output.name).read_text()


def _command(arguments: list[str], output: str, before: Callable[[], None] | None) -> None:
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if before is not None:
        before()
    sys.argv = ["fedloom", *arguments]
    main()


def killed_run(values: Values, overrides: list[str], out: Path, write: int, early: bool) -> None:
    """Carry out a run, and die at the n-th write of a checkpoint or of a client's state: before or after it counts."""
    real, seen = os.replace, 0

    def replace(partial: Path, final: Path) -> None:
        nonlocal seen
        seen += {"checkpoints", "clients"} & set(Path(final).parts) != set()
        if early and seen == write:
            os.kill(os.getpid(), signal.SIGKILL)
        real(partial, final)
        if seen == write:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    fedloom.run(values, out, overrides)


RANK = """
import json
import sys
from fedloom.places import Place
from fedloom.recipe import parse_recipe
from fedloom.runs import take_part

for line in sys.stdin:
    task = json.loads(line)
    take_part(Place(**task["place"]), lambda: parse_recipe(task["recipe"]), task["out"], False, 1, False)
    print("done", flush=True)
"""


class TwoProcesses:
    """Two processes that carry out one recipe after another; started once, as that takes longer than the runs."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]

    def run(self, values: Values, out: Path) -> None:
        if any(process.poll() is not None for process in self.processes):
            pytest.fail("an earlier recipe has ended the processes")
        point = out.with_name("meeting_point").as_uri()
        for rank, process in enumerate(self.processes):
            place = {"rank": rank, "size": 2, "local_rank": rank, "local_size": 2, "meeting_point": point}
            recipe = {**values, "runtime": {**values["runtime"], "kind": "distributed", "processes": 2}}
            print(json.dumps({"place": place, "recipe": json.dumps(recipe), "out": str(out)}), file=process.stdin)
            process.stdin.flush()
        for process in self.processes:
            if process.stdout.readline() != "done\n":
                self.end()
                pytest.fail("\n".join(one.stderr.read() for one in self.processes))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
