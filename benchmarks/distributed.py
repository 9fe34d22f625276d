"""What do several processes gain? The quickstart's federated arm by two processes of one thread each, and by one.

Compared, interleaved: one process with one thread, two processes with one thread each, and one process with two lanes
(threads over one base). `rounds` and `evaluation` are the run's own seconds, `command` is the whole command with its
start, CPU seconds are those of all its processes. Beside the ratios: the largest difference of an entry of the adapter
from the first run's. `--json FILE` also writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import safetensors.torch
from rich.console import Console
from rich.table import Table

from fedloom.report.events import read_events

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
SETTINGS = {
    "one process, one thread": ["--set", "runtime.threads=1"],
    "two processes, one thread each": ["--set", "runtime.threads=1", "--processes", "2"],
    "one process, two lanes": ["--set", "runtime.threads=2"],
}
TIMES = ("rounds", "evaluation", "command", "cpu")


def measure(options: list[str], batch_size: int, rounds: int, out: Path) -> dict[str, Any]:
    """Seconds of one run, and its adapter."""
    command = [sys.executable, "-m", "fedloom", "run", str(RECIPE), "--out", str(out), *options]
    for override in (f"local.batch_size={batch_size}", f"federation.rounds={rounds}", "baselines=[]"):
        command += ["--set", override]
    command += ["--set", "evaluation.every=null"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    events = read_events(out / "events.jsonl")
    return {
        "rounds": sum(e["train_seconds"] + e["aggregate_seconds"] for e in events if e["event"] == "round"),
        "evaluation": sum(e["seconds"] for e in events if e["event"] == "evaluation"),
        "command": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "adapter": safetensors.torch.load_file(out / "adapter" / "adapter_model.safetensors"),
    }


def processor() -> str:
    """The machine's processor and the cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one repetition of one round")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    repetitions, rounds = (1, 1) if arguments.quick else (5, 6)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repetitions):
            for number, (name, options) in enumerate(SETTINGS.items()):
                out = Path(folder) / f"{repetition}-{number}"
                runs[name].append(measure(options, arguments.batch_size, rounds, out))
    reference = runs[next(iter(SETTINGS))][0]["adapter"]
    title = f"{rounds} rounds, batch size {arguments.batch_size}, medians of {repetitions}; {processor()}"
    table = Table("", *(f"{name}, s" for name in TIMES), "speed-up: rounds", "command", "difference", title=title)
    results: dict[str, Any] = {}
    for name, measured in runs.items():
        result = {key: median(run[key] for run in measured) for key in TIMES}
        first = results.get(next(iter(SETTINGS)), result)
        result["difference"] = max(
            float((run["adapter"][key] - value).abs().max()) for run in measured for key, value in reference.items()
        )
        ratios = [first[key] / result[key] for key in ("rounds", "command")]
        results[name] = result
        cells = [f"{result[key]:.1f}" for key in TIMES] + [f"{ratio:.2f}" for ratio in ratios]
        table.add_row(name, *cells, f"{result['difference']:.1e}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": processor(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
