"""What a run costs as the number of clients grows: 100, 10,000 and 100,000 clients, ten of them at work in every round.

Every size has processes of its own, which carry out the real loop (`fedloom.federation.train`: session, arms, rounds,
event log, checkpoints) on records of four short examples a client. The first process of a size also prepares the data,
as the first run of a recipe does; the others find it prepared. They alternate between the sizes, and figures are
medians over the rounds of all of them (memory: of the largest process). Two arms are measured: the federation, and the
same clients going on from adapters and moments of their own, which are loaded from disk and written back in every
round; every client of the population has its folder there.

"Outside" is a round's time without training (`train_cohort`) and evaluation; its parts are timed in the same rounds.
`--json FILE` writes the numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import fedloom.federation
import fedloom.runtime.in_process
import fedloom.session
import fedloom.shared_work
from fedloom.aggregation import State
from fedloom.aggregation.mean import StreamingMean
from fedloom.arms import Arm
from fedloom.federation import Listener, train
from fedloom.recipe import Recipe, load_recipe
from fedloom.report.events import EventLog
from fedloom.run_directory import DATA, RunDirectory
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.client_store import ClientStore
from fedloom.runtime.exchange import ADAPTER, MOMENTS, Exchange
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.session import Session
from fedloom.training.optimizers import local_optimizer

WORDS = ("river", "stone", "lamp", "winter", "garden", "letter", "bridge", "summer", "doctor", "market", "paper")
EXAMPLES, CLIENTS_PER_ROUND = 4, 10
ARMS = {"federated": "stateless", "local": "with state"}
# Rounds at the start of an arm, in which buffers are still being allocated, count for nothing.
WARM_UP = 3
PARTS = ("plan", "data", "state", "mean", "events", "commit")
MIB = 1 << 20
MEMORY_GOAL, SECONDS_GOAL = 1.1, {"federated": 0.020, "local": 0.100}


def write_records(path: Path, clients: int) -> None:
    """Clients with four examples each: repeat a word of a list."""
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(clients):
            for _ in range(EXAMPLES):
                words = [WORDS[place] for place in generator.integers(len(WORDS), size=6)]
                place = int(generator.integers(6))
                prompt = f"word {place + 1} of: {' '.join(words)}"
                record = {"prompt": prompt, "response": words[place], "client": f"client-{number:06d}"}
                file.write(json.dumps(record) + "\n")


def scale_recipe(source: Path, rounds: int) -> Recipe:
    """Ten clients a round, a step each; fifty clients are tested."""
    return load_recipe(
        {
            "name": "scale",
            "model": {"base": "pocket", "dtype": "float32"},
            "data": {"source": str(source), "max_tokens": 64, "split": {"validation": 0.0, "test": 0.25}},
            "federation": {"rounds": rounds, "clients_per_round": CLIENTS_PER_ROUND},
            "local": {"steps": 1, "batch_size": 2},
            "evaluation": {"max_clients": 50},
            "runtime": {"threads": 1},
        }
    )


class Watch:
    """Wall and CPU seconds of named parts, round by round, and the memory at the end of each round."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, Any]] = []
        self._parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._began = self._now()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its seconds added to a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = self._now()
            try:
                return function(*arguments, **named)
            finally:
                for place, (before, after) in enumerate(zip(began, self._now(), strict=True)):
                    self._parts[part][place] += after - before

        return call

    def round_ends(self) -> None:
        """Note what this round came to, and begin the next."""
        now = self._now()
        whole = [after - before for before, after in zip(self._began, now, strict=True)]
        outside = list(whole)
        for part in ("training", "evaluation"):
            outside = [left - spent for left, spent in zip(outside, self._parts[part], strict=True)]
        parts = {part: self._parts[part][0] for part in PARTS}
        parts["rest"] = outside[0] - sum(parts.values())
        memory = psutil.Process().memory_info().rss
        self.rounds.append({"wall": outside[0], "cpu": outside[1], "parts": parts, "rss": memory})
        self._parts.clear()
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def measure(source: Path, out: Path, rounds: int, prepared: Path | None) -> dict[str, Any]:
    """Carry a run out in this process, and say what it cost.

    Args:
        source: the records.
        out: the run directory, new.
        rounds: of each arm.
        prepared: data of an earlier run; None: prepare it.

    Returns:
        Preparation, peak memory, and the rounds of each arm.
    """
    recipe = scale_recipe(source, rounds)
    watch = Watch()
    told: dict[str, Any] = {}
    by_arm: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}

    def prepare_data(*arguments: Any) -> Any:
        began, busy = time.perf_counter(), time.process_time()
        result = real_prepare(*arguments)
        told["prepare"] = {"wall": time.perf_counter() - began, "cpu": time.process_time() - busy}
        told["prepare"]["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return result

    def build_arms(session: Session) -> list[Arm]:
        arm = real_arms(session)[0]
        told["client_bytes"] = session.runtime.sizer.bytes_at_work(1, round(tokens_of_a_client(session)))
        arms = [arm, with_state(session, arm)]
        return [
            dataclasses.replace(
                one, plan=watch.timed("plan", one.plan), evaluate=watch.timed("evaluation", one.evaluate)
            )
            for one in arms
        ]

    def save_checkpoint(directory: Path, state: Any) -> None:
        real_save(directory, state)
        watch.round_ends()
        if state.round > WARM_UP:
            by_arm[list(ARMS)[state.arm]].append(watch.rounds[-1])

    real_prepare, real_arms = fedloom.session.prepare_data, fedloom.shared_work.build_arms
    real_save = watch.timed("commit", fedloom.federation.save_checkpoint)
    fedloom.session.prepare_data = prepare_data
    fedloom.shared_work.build_arms = build_arms
    fedloom.federation.save_checkpoint = save_checkpoint
    for owner, name, part in (
        (InProcessRuntime, "_task", "data"),
        (ClientStore, "load", "state"),
        (ClientStore, "save", "state"),
        (StreamingMean, "add", "mean"),
        (StreamingMean, "mean", "mean"),
        (Exchange, "_bytes_up", "mean"),
        (fedloom.runtime.in_process, "train_cohort", "training"),
        (EventLog, "append", "events"),
    ):
        setattr(owner, name, watch.timed(part, getattr(owner, name)))
    with RunDirectory(out, recipe, resume=False) as directory:
        if prepared is not None:
            (out / DATA).symlink_to(prepared)
        train(directory, silent, fedloom.shared_work.open_run)
    return {**told, "arms": by_arm, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def with_state(session: Session, arm: Arm) -> Arm:
    """Its clients, each going on from its own adapter and moments; all have a folder, those drawn a state."""
    name = "local"

    def plan(number: int, state: State) -> RoundPlan:
        return dataclasses.replace(arm.plan(number, state), arm=name, personal=True)

    for client in session.data.clients:
        (session.store.directory / client / name).mkdir(parents=True)
    adapter = session.grouped.initial(session.recipe.seed)
    moments = local_optimizer(session.recipe.local).init(session.grouped.flatten(adapter))
    state = {ADAPTER + key: value for key, value in adapter.items()}
    state |= {MOMENTS + key: value for key, value in moments.items()}
    for client in {client for number in range(1, arm.rounds + 1) for client in plan(number, {}).clients}:
        session.store.save(name, client, 0, state)
    return dataclasses.replace(arm, name=name, plan=plan)


def tokens_of_a_client(session: Session) -> float:
    """Tokens of a client's batch, on average over a hundred clients."""
    recipe = session.recipe
    lengths = [session.data.examples_at(row, "train").lengths.mean() for row in range(100)]
    return float(np.mean(lengths)) * recipe.local.batch_size


@contextmanager
def silent(_: dict[str, int]) -> Iterator[Listener]:
    """An observer that shows nothing."""
    yield lambda _: None


def in_process_of_its_own(source: Path, out: Path, rounds: int, prepared: Path | None) -> dict[str, Any]:
    """`measure` in a fresh process."""
    result = out.with_suffix(".json")
    command = [
        sys.executable,
        __file__,
        "--measure",
        str(source),
        str(out),
        str(rounds),
        str(prepared or ""),
        str(result),
    ]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def summary(processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one size over the rounds of its processes; memory of its largest process."""
    arms = {}
    for arm in ARMS:
        rounds = [one for process in processes for one in process["arms"][arm]]
        arms[arm] = {
            "rounds": len(rounds),
            "rss": max(median(one["rss"] for one in process["arms"][arm]) for process in processes),
            **{key: median(one[key] for one in rounds) for key in ("wall", "cpu")},
            "parts": {part: median(one["parts"][part] for one in rounds) for part in (*PARTS, "rest")},
        }
    return {"prepare": processes[0]["prepare"], "client_bytes": processes[0]["client_bytes"], "arms": arms}


def machine() -> str:
    """Processor model and number of cores, as the system names them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
    return f"{model}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"


def show(results: dict[int, dict[str, Any]], console: Console) -> None:
    """Print the tables, and whether the goals are met."""
    smallest = results[min(results)]
    prepared = Table("clients", "s", "CPU s", "peak MiB", title="Preparation, once")
    whole = Table("clients", "", "resident MiB", "of the smallest", "outside ms", "CPU ms")
    whole.title = f"A run, {CLIENTS_PER_ROUND} clients at work"
    parts = Table("clients", "", *PARTS, "rest", title="Outside training and evaluation, ms a round")
    for clients, result in results.items():
        prepare = result["prepare"]
        seconds = [f"{prepare[clock]:.1f}" for clock in ("wall", "cpu")]
        prepared.add_row(f"{clients:,}", *seconds, f"{prepare['peak'] / MIB:,.0f}")
        for arm, text in ARMS.items():
            one = result["arms"][arm]
            memory = f"{one['rss'] / MIB:,.0f}", f"{100 * one['rss'] / smallest['arms'][arm]['rss']:.1f} %"
            whole.add_row(f"{clients:,}", text, *memory, *(f"{1e3 * one[clock]:.1f}" for clock in ("wall", "cpu")))
            parts.add_row(f"{clients:,}", text, *(f"{1e3 * one['parts'][part]:.1f}" for part in (*PARTS, "rest")))
    console.print(machine())
    for table in (prepared, whole, parts):
        console.print(table)
    console.print(f"a client at work takes {smallest['client_bytes'] / MIB:.1f} MiB beside the base model")
    for arm, text in ARMS.items():
        share = max(result["arms"][arm]["rss"] for result in results.values()) / smallest["arms"][arm]["rss"]
        slowest = max(result["arms"][arm]["wall"] for result in results.values())
        met = share <= MEMORY_GOAL and slowest <= SECONDS_GOAL[arm]
        goals = f"{100 * (MEMORY_GOAL - 1):.0f} % and {1e3 * SECONDS_GOAL[arm]:.0f} ms"
        console.print(
            f"{text}: {100 * (share - 1):+.1f} % memory, {1e3 * slowest:.1f} ms; {goals}: {'met' if met else 'missed'}"
        )


def main() -> None:
    """Measure every size in processes of its own, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="100 and 2,000 clients, few rounds: does it run?")
    parser.add_argument("--measure", nargs=5, metavar=("SOURCE", "OUT", "ROUNDS", "PREPARED", "RESULT"))
    arguments = parser.parse_args()
    if arguments.measure:
        source, out, rounds, prepared, result = arguments.measure
        found = measure(Path(source), Path(out), int(rounds), Path(prepared) if prepared else None)
        Path(result).write_text(json.dumps(found))
        return
    sizes = (100, 2_000) if arguments.quick else (100, 10_000, 100_000)
    rounds, repetitions = (8, 1) if arguments.quick else (20, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes: dict[int, list[dict[str, Any]]] = {}
        for size in sizes:
            write_records(folder / f"{size}.jsonl", size)
            processes[size] = [in_process_of_its_own(folder / f"{size}.jsonl", folder / f"{size}", rounds, None)]
        for repetition in range(repetitions):
            for size in sizes:
                out, data = folder / f"{size}-{repetition}", folder / f"{size}" / DATA
                processes[size].append(in_process_of_its_own(folder / f"{size}.jsonl", out, rounds, data))
    results = {size: summary(found) for size, found in processes.items()}
    show(results, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "sizes": results}, indent=2))


if __name__ == "__main__":
    main()
