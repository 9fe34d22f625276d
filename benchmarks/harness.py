"""What the speed benchmarks share: interleaved repetitions, medians, wall and CPU seconds, peaks, the machine, tables.

Sides that are compared take turns within one run, in an order that rotates, so that a machine that slows down or
speeds up meets all of them alike. CPU seconds are those of all threads of the process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

MIB = 1 << 20


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has: --json and --quick.

    Args:
        description: the benchmark's docstring.

    Returns:
        A parser to add further options to.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="under a minute: does it run? Its figures prove nothing")
    return parser


def shared_folder() -> Path:
    """Where real data and models are looked for: beside the repository, or in FEDLOOM_SHARED."""
    return Path(os.environ.get("FEDLOOM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def machine() -> dict[str, Any]:
    """Processor, cores, accelerator and versions: what a figure depends on besides the code."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "processor": cpu,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "native_bf16": bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "peft": importlib.metadata.version("peft"),
    }


@dataclass(frozen=True)
class Timing:
    """What one repetition took.

    Args:
        wall: seconds.
        cpu: seconds of all threads of the process.
    """

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Timing:
    """Time one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The order of the sides in one turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def take_turns(sides: Mapping[str, Callable[[], Any]], repetitions: int, warm_up: int = 1) -> dict[str, list[Timing]]:
    """Time every side `repetitions` times, one after another, in a rotating order.

    Args:
        sides: what to call, by name.
        repetitions: timed calls of each side.
        warm_up: calls of each side before them that are not timed.

    Returns:
        The timings of each side.
    """
    for _ in range(warm_up):
        for work in sides.values():
            work()
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for turn in range(repetitions):
        for name in rotated(list(sides), turn):
            timings[name].append(timed(sides[name]))
    return timings


def median_timing(timings: Sequence[Timing]) -> Timing:
    """Medians of wall and CPU seconds, each on its own."""
    return Timing(median(one.wall for one in timings), median(one.cpu for one in timings))


def current_memory() -> int:
    """Bytes of this process's resident memory."""
    return psutil.Process().memory_info().rss


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can do that."""
    clear = Path("/proc/self/clear_refs")
    if clear.is_file():
        clear.write_text("5")


def peak_memory() -> int:
    """Bytes of this process's resident memory at its highest.

    From /proc where there is one: getrusage would hand on the highest value of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def product_speed(rows: int, inner: int, columns: int, dtype: torch.dtype, device: str = "cpu") -> float:
    """GFLOP/s of one matrix product, [rows, inner] by a frozen weight [columns, inner], at torch's thread count.

    The best of several repetitions: a peak is what the machine can do, not what it did on average.
    """
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    best = float("inf")
    for repetition in range(12):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if device != "cpu":
            torch.cuda.synchronize()
        if repetition >= 2:
            best = min(best, time.perf_counter() - began)
    return 2e-9 * rows * inner * columns / best


def matmul_peak(
    shapes: Sequence[tuple[int, int]], dtype: torch.dtype, rows: Sequence[int] = (1024, 4096), device: str = "cpu"
) -> dict[str, float]:
    """The matmul peak at a model's own product sizes.

    Args:
        shapes: (inputs, outputs) of the model's layers.
        dtype: number format.
        rows: numbers of tokens to try.
        device: where.

    Returns:
        GFLOP/s by size, "rows x in x out", and the highest as "peak".
    """
    speeds = {
        f"{count} x {inputs} x {outputs}": product_speed(count, inputs, outputs, dtype, device)
        for count in rows
        for inputs, outputs in dict.fromkeys(shapes)
    }
    return {"peak": max(speeds.values()), **speeds}


class Worker:
    """A process of its own for one side: its thread count, allocator settings and memory are nobody else's.

    Args:
        script: a Python file that calls `serve`.
        arguments: of the script.
        threads: CPU threads of the process's parallel regions.
    """

    def __init__(self, script: Path, *arguments: str, threads: int) -> None:
        self.name = " ".join([script.name, *arguments])
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )

    def wait_until_ready(self) -> None:
        """Wait until it serves: what it does to get ready is not to fall into anybody's timing."""
        self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer a `Worker`'s requests until it is closed; whatever libraries print goes nowhere."""
    with os.fdopen(os.dup(1), "w") as replies, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        replies.write("{}\n")
        replies.flush()
        for line in sys.stdin:
            replies.write(json.dumps(answer(json.loads(line))) + "\n")
            replies.flush()


@dataclass(frozen=True)
class Target:
    """A claim and what was measured.

    Args:
        claim: in words.
        value: measured.
        bound: what it is held against.
        at_most: whether the bound is an upper one.
    """

    claim: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the measurement keeps the claim."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def as_dict(self) -> dict[str, Any]:
        """The target for JSON."""
        return {"claim": self.claim, "value": self.value, "bound": self.bound, "met": self.met}


def target_table(targets: Sequence[Target]) -> Table:
    """Claims beside measurements."""
    table = Table("claim", "measured", "target", "", title="targets")
    for target in targets:
        sign = "at most" if target.at_most else "at least"
        verdict = "[green]met[/green]" if target.met else "[red]missed[/red]"
        table.add_row(target.claim, f"{target.value:.4g}", f"{sign} {target.bound:g}", verdict)
    return table


def finish(name: str, arguments: argparse.Namespace, tables: Sequence[Table], **numbers: Any) -> None:
    """Print the tables under the machine's description, and write the numbers where --json says.

    Args:
        name: of the benchmark.
        arguments: parsed; has json and quick.
        tables: to print.
        numbers: for the file; targets as a list of `Target`.
    """
    here = machine()
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(
        f"{name}: {here['processor']}, {here['usable_cores']} of {here['cores']} cores, torch {here['torch']}, "
        f"bf16 {'native' if here['native_bf16'] else 'emulated'}{', quick' if arguments.quick else ''}"
    )
    targets: list[Target] = numbers.pop("targets", [])
    for table in [*tables, *([target_table(targets)] if targets else [])]:
        console.print(table)
    if arguments.json:
        written = {
            "benchmark": name,
            "quick": arguments.quick,
            "machine": here,
            **numbers,
            "targets": [target.as_dict() for target in targets],
        }
        arguments.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def skip(name: str, arguments: argparse.Namespace, reason: str) -> None:
    """Say why a benchmark can't run here; not an error."""
    Console().print(f"{name}: skipped: {reason}")
    if arguments.json:
        written = {"benchmark": name, "skipped": reason, "machine": machine()}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
