"""What every algorithm's server costs: 64 updates of a 100 MB adapter, memory and time an update, on one thread.

Each algorithm has a process of its own that holds the adapter, the server's state and a few updates, which come in
again and again. Memory is the resident high-water mark of the first step beyond all that, in adapters; the next adapter
and state are part of it. Algorithms that fold add updates to sums in fp64: an entry of theirs is read to be checked (4
bytes) and, once all of the update is known to be sound, read again and added (4 and twice 8). That traffic over a
step's CPU seconds is held against the bandwidth of copying an adapter, measured in the same process before each step.
Algorithms that collect let the updates wait in a file; bytes written are those of the process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from rich.table import Table
from torch import Tensor

from harness import (
    Target,
    Worker,
    arguments_of,
    current_memory,
    finish,
    peak_memory,
    reset_peak_memory,
    serve,
    timed,
)

NAME = "aggregation"
UPDATES, POOL, REPETITIONS = 64, 2, 3
# 32 layers of width 4,096 with two adapted projections each; the rank makes it 100 MB.
LAYERS, WIDTH, RANK = 32, 4096, 48
# Bytes of traffic an entry of an update costs.
CHECK, ADD, NORM = 4, 20, 4
FOLDING: dict[str, tuple[int, dict[str, Any]]] = {
    "fedavg": (CHECK + ADD, {}),
    "fedprox": (CHECK + ADD, {}),
    "fedavgm": (CHECK + ADD, {}),
    "fedadagrad": (CHECK + ADD, {}),
    "fedyogi": (CHECK + ADD, {}),
    "fedadam": (CHECK + ADD, {}),
    "scaffold": (2 * (CHECK + ADD), {"clients": 1000, "total_examples": 10**6}),
    "fednova": (CHECK + ADD, {}),
    "feddyn": (CHECK + ADD, {"clients": 1000}),
    "ditto": (CHECK + ADD, {}),
    "pfedme": (CHECK + ADD, {}),
    "fedbuff": (CHECK + ADD, {}),
    "norm_bound": (CHECK + NORM + ADD, {"bound": 1.0}),
}
COLLECTING: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed_mean": {},
    "krum": {"byzantine_clients": 2},
    "multi_krum": {"byzantine_clients": 2, "kept_clients": 4},
    "geometric_median": {},
}
METRICS = {"normalizer": 10.0, "staleness": 1}
# Exceptions to the first: an update of SCAFFOLD's is two adapters long, so its sums in fp64 are four; and what adaptive
# optimisers return, the next adapter and two moments, is three.
ADAPTERS_TARGET, COPY_TARGET = 3.0, 0.5
MORE_ADAPTERS = {"scaffold": 4.2, "fedadagrad": 3.2, "fedyogi": 3.2, "fedadam": 3.2}


def adapter_like(rank: int, seed: int) -> dict[str, Tensor]:
    """Named tensors of an adapter, random."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (rank, WIDTH), "B": (WIDTH, rank)}
    return {
        f"layers.{layer}.{projection}.lora_{factor}.weight": torch.randn(shape, generator=generator)
        for layer in range(LAYERS)
        for projection in ("q_proj", "v_proj")
        for factor, shape in shapes.items()
    }


def bytes_written() -> int:
    """What this process has written to files, where the system counts it."""
    counters = getattr(psutil.Process(), "io_counters", None)
    return counters().write_chars if counters else 0


def work(name: str, rank: int, count: int) -> None:
    """A process that takes one step of an algorithm for every request."""
    from fedloom.aggregation import Update, algorithm

    parameters = FOLDING[name][1] if name in FOLDING else COLLECTING[name]
    rule = algorithm(name, **parameters)
    adapter = adapter_like(rank, seed=0)
    entries = sum(value.numel() for value in adapter.values())
    pool = [adapter_like(rank, seed=1 + k) for k in range(POOL)]
    state = rule.init(adapter)
    prefixes = {key.partition("/")[0] for key in rule.sent(state)}
    extras = [{f"{prefix}/{key}": value for prefix in prefixes for key, value in one.items()} for one in pool]
    source, target = torch.randn(entries), torch.empty(entries)
    target.copy_(source)

    def updates() -> Iterator[Update]:
        for k in range(count):
            yield Update(f"client-{k:03}", pool[k % POOL], 1 + k, METRICS, extras[k % POOL])

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        copying = median(timed(lambda: target.copy_(source)).cpu for _ in range(5))
        before, written = current_memory(), bytes_written()
        reset_peak_memory()
        timing = timed(lambda: rule.step(adapter, state, updates()))
        return {
            "wall": timing.wall / count,
            "cpu": timing.cpu / count,
            "adapters": (peak_memory() - before) / (4 * entries),
            "written": (bytes_written() - written) / (4 * entries),
            "copy_gb_s": 8e-9 * entries / copying,
        }

    serve(answer)


def measure(name: str, rank: int, count: int, repetitions: int) -> dict[str, Any]:
    """One algorithm: memory of the first step, medians of the others, each beside a copy of its own."""
    worker = Worker(Path(__file__), "worker", name, str(rank), str(count), threads=1)
    worker.wait_until_ready()
    first = worker.ask()
    others = [worker.ask() for _ in range(repetitions)]
    worker.close()
    entries = LAYERS * 4 * WIDTH * rank
    row = {key: median(one[key] for one in others) for key in ("wall", "cpu", "copy_gb_s")}
    row |= {"algorithm": name, "adapters": first["adapters"], "written": first["written"]}
    if name in FOLDING:
        moved = 1e-9 * FOLDING[name][0] * entries
        row["gb_s"] = moved / row["cpu"]
        row["of_copy"] = median(moved / one["cpu"] / one["copy_gb_s"] for one in others)
    return row


def main() -> None:
    """Run the benchmark, or serve one algorithm for it."""
    if sys.argv[1:2] == ["worker"]:
        return work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    parser = arguments_of(__doc__)
    parser.add_argument("--algorithms", nargs="+", metavar="NAME", choices=[*FOLDING, *COLLECTING])
    arguments = parser.parse_args()
    rank, count, repetitions = (2, 8, 1) if arguments.quick else (RANK, UPDATES, REPETITIONS)
    names = arguments.algorithms or [*FOLDING, *COLLECTING]
    rows = {}
    for name in names:
        rows[name] = measure(name, rank, count, repetitions if name in FOLDING else 1)
    size = f"{count} updates of {4e-6 * LAYERS * 4 * WIDTH * rank:.0f} MB"
    table = Table("algorithm", "ms an update", "CPU ms", "GB/s", "of copying", "adapters held", "in a file", title=size)
    targets = []
    for name, row in rows.items():
        speed = (f"{row['gb_s']:.1f}", f"{row['of_copy']:.2f}") if name in FOLDING else ("", "")
        held, filed = f"{row['adapters']:.2f}", f"{row['written']:.0f}" if name in COLLECTING else ""
        table.add_row(name, f"{1e3 * row['wall']:.1f}", f"{1e3 * row['cpu']:.1f}", *speed, held, filed)
        bound = MORE_ADAPTERS.get(name, ADAPTERS_TARGET)
        targets.append(Target(f"{name}: adapters held", row["adapters"], bound, at_most=True))
        if name in FOLDING:
            targets.append(Target(f"{name}: share of the copying bandwidth", row["of_copy"], COPY_TARGET))
    settings = {"rank": rank, "updates": count, "repetitions": repetitions, "layers": LAYERS, "width": WIDTH}
    finish(NAME, arguments, [table], targets=targets, settings=settings, rows=list(rows.values()))
    return None


if __name__ == "__main__":
    main()
