"""What does `fedloom compare` cost against separate `fedloom run` commands? The same variants and seeds, both ways.

Three algorithms and two seeds of the quickstart's data, no baselines; each side is started as a person starts it, as
processes of their own, and takes turns with the other. The adapters must be equal to the last bit, and the comparison
must take clearly less than the runs: at most 0.8 times their CPU seconds.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import arguments_of, machine

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
ALGORITHMS = ("fedavg", "scaffold", "fedadam")
TARGET = 0.8
ADAPTER = Path("adapter") / "adapter_model.safetensors"


def timed(*arguments: str) -> dict[str, float]:
    """Wall and CPU seconds of a fedloom command and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "fedloom", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - began, "cpu": cpu}


def main() -> None:
    """Time both sides and print their ratio."""
    arguments = arguments_of(__doc__).parse_args()
    algorithms, seeds, repetitions = (ALGORITHMS[:2], 1, 1) if arguments.quick else (ALGORITHMS, 2, 3)
    rounds = 1 if arguments.quick else 4
    settings = [f"--set=federation.rounds={rounds}", "--set=baselines=[]", "--set=evaluation.max_examples=20"]
    sides: dict[str, list[dict[str, float]]] = {"runs": [], "compare": []}
    differing = 0
    for repetition in range(repetitions):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def runs(folder: Path = folder) -> dict[str, float]:
                total = {"wall": 0.0, "cpu": 0.0}
                for algorithm in algorithms:
                    for seed in range(seeds):
                        own = [f"--set=federation.algorithm={algorithm}", f"--set=seed={seed}"]
                        out = str(folder / f"{algorithm}-{seed}")
                        took = timed("run", str(RECIPE), "--out", out, *settings, *own)
                        total = {key: total[key] + took[key] for key in total}
                return total

            def compare(folder: Path = folder) -> dict[str, float]:
                vary = f"--vary=federation.algorithm={','.join(algorithms)}"
                options = ["--seeds", str(seeds), "--no-baselines", "--out", str(folder / "compare")]
                return timed("compare", str(RECIPE), vary, *settings, *options)

            turns = {"runs": runs, "compare": compare}
            for side in list(turns)[:: 1 if repetition % 2 == 0 else -1]:
                sides[side].append(turns[side]())
            for algorithm in algorithms:
                for seed in range(seeds):
                    cell = folder / "compare" / "cells" / algorithm / f"seed-{seed}" / ADAPTER
                    differing += cell.read_bytes() != (folder / f"{algorithm}-{seed}" / ADAPTER).read_bytes()
    best = {side: {key: min(one[key] for one in times) for key in ("wall", "cpu")} for side, times in sides.items()}
    ratio = {key: best["compare"][key] / best["runs"][key] for key in ("wall", "cpu")}
    cells = len(algorithms) * seeds
    table = Table("side", "wall s", "CPU s", title=f"{cells} runs of {rounds} rounds")
    for side, took in best.items():
        table.add_row(side, f"{took['wall']:.1f}", f"{took['cpu']:.1f}")
    console = Console()
    console.print(table)
    console.print(f"compare / runs: wall {ratio['wall']:.2f}, CPU {ratio['cpu']:.2f}; differing adapters: {differing}")
    met = ratio["cpu"] <= TARGET and not differing
    console.print(f"target (CPU at most {TARGET}, no adapter differs): {'met' if met else 'missed'}")
    if arguments.json:
        values = {
            "machine": machine(),
            "cells": cells,
            "sides": sides,
            "ratio": ratio,
            "differing": differing,
            "met": met,
        }
        arguments.json.write_text(json.dumps(values, indent=2))


if __name__ == "__main__":
    main()
