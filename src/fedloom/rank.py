"""`python -m fedloom.rank`: one process of a distributed run or of a comparison, started by the command's process."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from fedloom.errors import ProcessLost, UserError, disk_error
from fedloom.launch import TOLD
from fedloom.places import Place


def main() -> None:
    """Do what the line on standard input says, and answer there if that can't be done."""
    line = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with line.makefile(encoding="utf-8") as lines:
        task = json.loads(lines.readline())
    # The line closes when the process at its other end is gone: then nobody waits for this one either.
    threading.Thread(target=lambda: (line.recv(1), os._exit(1)), daemon=True).start()
    answer: dict[str, Any]
    try:
        _carry_out(task)
        return
    except UserError as error:
        answer = {"kind": "mistake", "message": error.message, "hint": error.hint}
    except OSError as error:
        told = disk_error(error)
        if told is None:
            raise
        answer = {"kind": "mistake", "message": told.message, "hint": told.hint}
    except ProcessLost as error:
        answer = {"kind": "lost", "message": error.message, "hint": error.hint}
    line.sendall(json.dumps(answer).encode() + b"\n")
    # At once: what is left of a broken group of processes may not close in an orderly way.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(TOLD)


def _carry_out(task: dict[str, Any]) -> None:
    if "comparison" in task:
        from fedloom.comparison.processes import take_cells

        take_cells(Path(task["comparison"]), task["processes"])
        return
    from fedloom.recipe import parse_recipe
    from fedloom.runs import take_part

    place = Place(**task["place"])
    take_part(place, lambda: parse_recipe(task["recipe"]), task["out"], task["resume"], task["seeds"], task["show"])


if __name__ == "__main__":
    main()
