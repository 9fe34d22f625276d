"""Carrying out units of work: in this process, or shared between several, each of which takes whole cells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedloom.comparison.folder import Unit, claimed, read_arguments, units_of
from fedloom.comparison.plan import make_plan
from fedloom.comparison.workshop import Workshop
from fedloom.errors import ProcessLost, UserError
from fedloom.launch import TOLD, Child

POLL_SECONDS = 0.2


def carry_out(folder: Path, units: Sequence[Unit], workshop: Workshop, ended: Callable[[], None]) -> None:
    """Do what is left to do, and wait for what other processes are doing; should one of them die, its units are free.

    Args:
        folder: the comparison's.
        units: cells and tunings.
        workshop: opens runs.
        ended: is called after every unit this process has carried out.
    """
    while left := [unit for unit in units if not unit.done]:
        worked = False
        for unit in left:
            if not unit.ready:
                continue
            with claimed(folder, unit) as mine:
                if not mine or unit.done:
                    continue
                unit.carry_out(workshop)
            worked = True
            ended()
        if not worked:
            time.sleep(POLL_SECONDS)


def share_out(folder: Path, units: Sequence[Unit], processes: int, ended: Callable[[], None]) -> None:
    """Let several processes carry out what is left to do.

    Args:
        folder: the comparison's.
        units: cells and tunings.
        processes: how many.
        ended: is called now and then, and once all is done.

    Raises:
        UserError: for a mistake that one of them found.
        ProcessLost: where none of them is left.
    """
    task = {"comparison": str(folder.resolve()), "processes": processes}
    children: list[Child] = []
    try:
        for rank in range(processes):
            children.append(Child(rank, task, dict(os.environ)))
        while not all(unit.done for unit in units):
            for child in children:
                if child.process.poll() == TOLD:
                    raise UserError(child.answer["message"], child.answer["hint"])
            if all(child.process.poll() is not None for child in children) and not all(unit.done for unit in units):
                codes = ", ".join(str(child.process.returncode) for child in children)
                raise ProcessLost(f"all processes are gone (exit codes {codes})", hint="go on with --resume")
            ended()
            time.sleep(POLL_SECONDS)
        ended()
        for child in children:
            # The last report is being written.
            child.process.wait()
    finally:
        for child in children:
            child.process.terminate()
        for child in children:
            child.end()


def take_cells(folder: Path, processes: int) -> None:
    """Be one of the processes.

    Args:
        folder: the comparison's.
        processes: how many there are.
    """
    units = units_of(folder, make_plan(read_arguments(folder)))
    carry_out(folder, units, Workshop(folder, processes), lambda: None)
