"""What the studies share: cells, one arm trained and tested each, that are done once and outlive any kill.

A study is a file of JSON lines, one for each cell that is done; it is started again with the same command and goes on
with the cells that are missing. Data are tokenised once for each seed, the base model is loaded once.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from fedloom.arms import build_arms
from fedloom.data.federated import FederatedData
from fedloom.errors import UserError
from fedloom.federation import first_state, run_arm
from fedloom.model.classes import classes_of
from fedloom.recipe import Recipe, load_recipe
from fedloom.recipe.pruning_schema import prunes
from fedloom.report.events import EventLog, strict_json
from fedloom.run_directory import ADAPTER, EVENTS
from fedloom.session import Session, open_data, open_model, over_model, shared_layers
from fedloom.statistics import student_interval
from fedloom.suites.in_training import suites_of
from harness import arguments_of, machine, shared_folder, skip

Cell = dict[str, Any]


class CellFile:
    """Finished cells, one JSON object a line: {"cell": what it is, "seconds": ..., "result": what came out}.

    Args:
        path: the file; created with the first cell. None: nothing is to be done.
        others: files that other processes write to, only read.
    """

    def __init__(self, path: Path | None, others: Sequence[Path] = ()) -> None:
        self.path = path
        self._done: dict[str, dict[str, Any]] = {}
        for other in others:
            whole, _, _ = other.read_bytes().rpartition(b"\n")
            self._take(whole)
        if path is None or not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # The line that a killed process was writing.
            os.truncate(path, whole)
        self._take(content[:whole])

    def _take(self, lines: bytes) -> None:
        for line in lines.splitlines():
            record = json.loads(line)
            self._done[_key(record["cell"])] = record

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What came out of a cell, None where it is not done."""
        record = self._done.get(_key(cell))
        return None if record is None else record["result"]

    def result_of(self, cell: Cell, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What comes out of a cell: looked up, or worked out and on disk before this returns.

        Args:
            cell: says what is done; everything that the result depends on.
            work: does it.

        Returns:
            The result, as JSON.
        """
        if (found := self.result(cell)) is not None:
            return found
        began, cpu = time.perf_counter(), time.process_time()
        result = strict_json(work())
        seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        record = {"cell": cell, **seconds, "result": result}
        assert self.path is not None
        with open(self.path, "ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._done[_key(cell)] = record
        block = result.get("personal") or result.get("own") or result
        score = block.get("accuracy") or block.get("loss")
        print(f"{time.strftime('%H:%M:%S')} {seconds['seconds']:5.1f} s  {_told(cell)}: {score}", flush=True)
        return result


def _key(cell: Cell) -> str:
    return json.dumps(cell, sort_keys=True)


def _told(cell: Cell) -> str:
    return ", ".join(str(value) for key, value in cell.items() if key not in {"setting", "scenario"})


class Stopwatch:
    """Wall and CPU seconds while it runs; it runs from the beginning."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.start()

    def start(self) -> None:
        """Go on."""
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Add what has passed since `start`."""
        self.wall += time.perf_counter() - self._began[0]
        self.cpu += time.process_time() - self._began[1]


class Workbench:
    """Trains arms of recipes over few models: each model section's model is loaded once.

    Args:
        folder: where tokenised data are kept for the next start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for leftover in folder.glob("cell-*"):
            shutil.rmtree(leftover)
        self._data: dict[str, FederatedData] = {}
        self._models: dict[str, Any] = {}

    def train(self, recipe: str | Path, setting: Mapping[str, Any], arm: str) -> dict[str, Any]:
        """Train one arm of a recipe from its first round to its last, and test it.

        Args:
            recipe: a shipped recipe.
            setting: its keys that have other values here.
            arm: federated, local, centralized; or base, which is only tested.

        Returns:
            The arm's result (losses), training losses by round, evaluations so far with the seconds of training before
            them, how far the adapter has moved, and what a round costs (without evaluation); where it diverged,
            {"loss": None, "failed": why}.
        """
        with self._folder() as directory:
            return self._train(directory, recipe, setting, arm)

    def train_in_stages(self, recipe: str | Path, stages: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
        """Train federations one after another, each from the adapter that the one before has ended with.

        Args:
            recipe: a shipped recipe.
            stages: of each its keys that have other values.
            arm: of the last; all before it are federated.

        Returns:
            As `train`, of the last stage; with all rounds, and with the seconds and costs of all stages.
        """
        with self._folder() as directory:
            whole: dict[str, Any] = {}
            for number, setting in enumerate(stages):
                place = directory / str(number)
                place.mkdir()
                start = {"model.adapter.start": str(directory / str(number - 1) / ADAPTER)} if number else {}
                last = number + 1 == len(stages)
                result = self._train(place, recipe, {**setting, **start}, arm if last else "federated")
                if "failed" in result:
                    return result
                whole = _joined(whole, result) if whole else result
            return whole

    def clock(self, recipe: str | Path, setting: Mapping[str, Any]) -> dict[str, Any]:
        """What a simulated radio cell hands out in a federation's rounds, and how long they take; nothing is trained.

        Args:
            recipe: a shipped recipe.
            setting: its keys that have other values here.

        Returns:
            Of every round its simulated seconds, and the means over clients of the seconds of computing and of sending
            and of the pruning rate.
        """
        with self._folder() as directory:
            session = self._session(directory, recipe, setting)
            arm = build_arms(session)[0]
            state = first_state(session, arm).algorithm
            plans = [arm.plan(number, state) for number in range(1, arm.rounds + 1)]
        times = [list(plan.simulated_clients.values()) for plan in plans]
        names = ("compute_seconds", "send_seconds", "prune_rate")
        means = {name: [fmean(client[name] for client in clients) for clients in times] for name in names}
        return {"seconds": [plan.simulated_seconds for plan in plans], **means}

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        # A folder of its own: clients keep state, and no cell is to find another's.
        self.folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="cell-") as name:
            yield Path(name)

    def _train(self, directory: Path, recipe: str | Path, setting: Mapping[str, Any], arm: str) -> dict[str, Any]:
        session = self._session(directory, recipe, setting)
        checked = session.recipe
        if arm == "base":
            return _losses(session.evaluator.shared(session.grouped.untuned(session.grouped.initial(checked.seed))))
        watch, curve = Stopwatch(), list[dict[str, Any]]()
        if checked.federation.layers is not None and arm == "federated":
            session.layers = shared_layers(session, directory)
        chosen = next(one for one in build_arms(session) if one.name == arm)

        def evaluate(adapter: Mapping[str, Tensor], done: int) -> dict[str, Any]:
            watch.stop()
            result = chosen.evaluate(adapter, done)
            curve.append({"round": done, "seconds": watch.wall, "cpu_seconds": watch.cpu, **_scores(result)})
            watch.start()
            return result

        state = first_state(session, chosen)
        start = state.adapter
        log = EventLog(directory / EVENTS)
        try:
            asked = replace(chosen, evaluate=evaluate)
            run_arm(directory, session, asked, log, state, suites_of(checked))
        except UserError as error:
            if "finite number" not in str(error):
                raise
            return {"loss": None, "failed": str(error)}
        events = [json.loads(line) for line in (directory / EVENTS).read_text().splitlines()]
        rounds = [event["loss"] for event in events if "train_seconds" in event]
        return {
            **_losses(state.results[arm]),
            "rounds": rounds,
            "curve": curve,
            "tokens": sum(event.get("tokens", 0) for event in events),
            "rejected": state.totals["rejected"],
            "cost": {
                "cpu_seconds": curve[-1]["cpu_seconds"] / chosen.rounds,
                "parameters": session.grouped.size,
                **_traffic(events),
            },
            "moved": norm({key: state.adapter[key] - start[key] for key in start}),
        }

    def _session(self, directory: Path, recipe: str | Path, setting: Mapping[str, Any]) -> Session:
        checked = load_recipe(recipe, [f"{key}={json.dumps(value)}" for key, value in setting.items()])
        data = self._opened(checked)
        classes = classes_of(checked.task, data.labels, data.label_words)
        # Where training starts from is no part of what is loaded; whether a model can be pruned is.
        section = f"{checked.model.model_dump_json(exclude={'adapter': {'start'}})} {classes} {prunes(checked)}"
        if section not in self._models:
            self._models[section] = open_model(checked, classes=classes)
        return over_model(checked, directory, data, *self._models[section])

    def _opened(self, recipe: Recipe) -> FederatedData:
        key = json.dumps([recipe.data.model_dump(mode="json"), recipe.task.model_dump(mode="json"), recipe.seed])
        if key not in self._data:
            self._data[key] = open_data(recipe, self.folder)
        return self._data[key]


def _joined(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a stage with what came before it: rounds and seconds go on, costs are those of all rounds."""
    last, counts = before["curve"][-1], (len(before["rounds"]), len(after["rounds"]))
    curve = [
        {**one, **{key: one[key] + last[key] for key in ("round", "seconds", "cpu_seconds")}} for one in after["curve"]
    ]
    cost = {
        key: (before["cost"][key] * counts[0] + value * counts[1]) / sum(counts) for key, value in after["cost"].items()
    }
    return {
        **after,
        "rounds": before["rounds"] + after["rounds"],
        "curve": before["curve"] + curve,
        "tokens": before["tokens"] + after["tokens"],
        "cost": cost | {"parameters": after["cost"]["parameters"]},
    }


def _traffic(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Bytes that a client sends and gets in a round, on average; none where no server is."""
    rounds = [event for event in events if "bytes_up" in event]
    clients = sum(len(event["clients"]) for event in rounds)
    return {key: sum(event[key] for event in rounds) / clients for key in ("bytes_up", "bytes_down") if clients}


def _losses(result: Mapping[str, Any]) -> dict[str, Any]:
    """Without accuracies, and without the single clients' numbers of examples; also of a matrix where there is one."""
    clients = {name: block["loss"] for name, block in result.get("clients", {}).items()}
    cross = {client: {test: one["loss"] for test, one in on.items()} for client, on in result.get("cross", {}).items()}
    return {"loss": result["loss"], **_scores(result), "clients": clients, **({"cross": cross} if cross else {})}


def _scores(result: Mapping[str, Any]) -> dict[str, Any]:
    """The means over clients and over the global test, without the single clients."""
    return {
        name: {key: value for key, value in result[name].items() if key != "clients"}
        for name in ("own", "personal", "global")
        if name in result
    }


def carry_on(
    name: str,
    description: str | None,
    settings: Mapping[str, Mapping[str, Any]],
    study: Callable[[str, CellFile, Workbench | None, bool], Any],
    run: Callable[[Any], None],
    report: Callable[[Any], str],
    found: Callable[[Any], Any],
) -> None:
    """Go on with a study of several data sets, or report on it: what its command does.

    Args:
        name: of the benchmark.
        description: for --help.
        settings: keys of the recipe by data set; data.source is a file of the shared data.
        study: the study of one data set: its name, the finished cells, what does the others, whether it is quick.
        run: does every cell that is missing.
        report: the tables of one data set, as Markdown.
        found: what was found on one data set, for programs.
    """
    parser = arguments_of(description)
    parser.add_argument("--out", type=Path, default=Path(f"{name}.jsonl"), metavar="FILE", help="the finished cells")
    parser.add_argument("--dataset", choices=sorted(settings), help="only this one")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables, train nothing")
    arguments = parser.parse_args()
    names = [arguments.dataset] if arguments.dataset else list(settings)
    missing = [one for one in names if not (shared_folder() / "data" / settings[one]["data.source"]).is_file()]
    if missing:
        return skip(name, arguments, f"no data for {', '.join(missing)} beside the repository (set FEDLOOM_SHARED)")
    use_one_thread()
    cells = CellFile(arguments.out)
    workbench = None if arguments.report else Workbench(arguments.out.with_suffix(".data"))
    studies = {one: study(one, cells, workbench, arguments.quick) for one in names}
    if workbench is not None:
        for one in studies.values():
            run(one)
    text = "\n\n".join(report(one) for one in studies.values()) + "\n"
    print(text)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    if arguments.json:
        results = {dataset: found(one) for dataset, one in studies.items()}
        written = {"benchmark": name, "quick": arguments.quick, "machine": machine(), "results": results}
        arguments.json.write_text(json.dumps(strict_json(written), indent=2) + "\n", encoding="utf-8")
    return None


def norm(tensors: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all tensors together."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in tensors.values()))


def told_interval(values: Sequence[float], signed: bool = False) -> str:
    """The mean and its interval in print, "failed" where a value is missing."""
    if any(value is None or not math.isfinite(value) for value in values):
        return "failed"
    interval = student_interval(values)
    mean = f"{interval.mean:{'+' if signed else ''}.3f}"
    return mean if interval.high is None else f"{mean} ± {interval.high - interval.mean:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def use_one_thread() -> None:
    """A study measures losses, not seconds: one thread gives the same bits on any number of cores."""
    torch.set_num_threads(1)
