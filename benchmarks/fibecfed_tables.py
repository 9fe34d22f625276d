"""The tables and the plot of benchmarks/fibecfed.py."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Any

from cells import markdown_table
from federated_study import at_the_edge, best_of
from fedloom.report.events import strict_json
from fedloom.statistics import student_interval
from fibecfed_cells import CONTENDERS, LEARNING_RATE, NAME, Study, accuracy
from harness import machine
from line_charts import Chart, Line, picture

Results = list[dict[str, Any]]
# Of all that are compared, those that the plot shows, with colours of the reports.
DRAWN = {
    "fibecfed": "#1f5fd0",
    "fedavg": "#c8443c",
    "no_curriculum": "#2aa5c9",
    "fedpeptao": "#8d6bd1",
    "layers_highest": "#e0861a",
    "self_paced": "#138a6b",
}


@dataclass(frozen=True)
class Point:
    """What three seeds have come to on average after some rounds.

    Args:
        cpu: CPU seconds of training, with the stage before the first round.
        wall: wall seconds of the same.
        accuracy: mean over clients.
    """

    cpu: float
    wall: float
    accuracy: float


def course(results: Results) -> list[Point]:
    """The means over seeds at each evaluation; of seeds that diverged there is none."""
    curves = [result["curve"] for result in results if "curve" in result]
    if len(curves) < len(results):
        return []
    return [
        Point(
            fmean(one["cpu_seconds"] for one in same),
            fmean(one["seconds"] for one in same),
            fmean(accuracy(one) for one in same),
        )
        for same in zip(*curves, strict=True)
    ]


def reaches(points: Sequence[Point], target: float) -> Point | None:
    """The first evaluation that is as good as a target."""
    return next((point for point in points if point.accuracy >= target), None)


def write_report(studies: Mapping[float, Study], arguments: Namespace) -> None:
    """Print what is there, and write it where the options say."""
    found: dict[float, dict[str, dict[str, Results]]] = {
        alpha: {
            name: {dataset: results for dataset in study.datasets if (results := study.final(name, dataset))}
            for name in CONTENDERS
        }
        for alpha, study in studies.items()
    }
    blocks = []
    for alpha, study in studies.items():
        done = {name: results for name, results in found[alpha].items() if results}
        if done:
            short = {name: results for name, results in done.items() if CONTENDERS[name].rate_of is None}
            blocks += [f"### Label priors from Dirichlet({alpha:g})", accuracy_table(short), cost_table(short)]
            if len(done) > len(short):
                blocks.append(long_table(done))
            blocks.append(tuning_table(study, short))
            if arguments.report and "fedavg" in done:
                picture = arguments.report.with_name(f"{arguments.report.stem}-{alpha:g}.svg")
                picture.write_text(plot(short), encoding="utf-8")
    text = "\n\n".join(blocks) + "\n"
    print(text)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    if arguments.json:
        written = {"benchmark": NAME, "quick": arguments.quick, "machine": machine(), "results": found}
        arguments.json.write_text(json.dumps(strict_json(written), indent=2) + "\n", encoding="utf-8")


def accuracy_table(found: Mapping[str, Mapping[str, Results]]) -> str:
    """Accuracies in percent: the mean over data sets with its interval over seeds, then every data set."""
    datasets = list(dict.fromkeys(dataset for results in found.values() for dataset in results))
    head = ["accuracy, %", "mean", "minus FedAvg-LoRA", "server's model", *datasets]
    rows = []
    for name, results in found.items():
        means = seed_means(results, accuracy)
        row = [CONTENDERS[name].title, told(means) + of(results, datasets)]
        shared = [dataset for dataset in results if dataset in found.get("fedavg", {})]
        if name == "fedavg" or not shared:
            row.append("")
        else:
            mine = seed_means({one: results[one] for one in shared}, accuracy)
            rival = seed_means({one: found["fedavg"][one] for one in shared}, accuracy)
            row.append(told([a - b for a, b in zip(mine, rival, strict=True)], signed=True))
        federated = CONTENDERS[name].arm == "federated"
        row.append(f"{100 * fmean(seed_means(results, of_global)):.1f}" if federated else "")
        for dataset in datasets:
            row.append(f"{100 * fmean(map(accuracy, results[dataset])):.1f}" if dataset in results else "")
        rows.append(row)
    return markdown_table(head, rows)


def of_global(result: Mapping[str, Any]) -> float:
    """The accuracy of the one model that the server holds, on every client's own examples."""
    return float(result["own"]["accuracy"]) if "own" in result else 0.0


def of(results: Mapping[str, Results], datasets: Sequence[str]) -> str:
    """How many data sets a mean is over, where some are missing."""
    return "" if len(results) == len(datasets) else f" ({len(results)} of {len(datasets)} sets)"


def seed_means(results: Mapping[str, Results], score: Any) -> list[float]:
    """The mean over data sets, seed by seed."""
    return [fmean(map(score, same)) for same in zip(*results.values(), strict=True)]


def told(values: Sequence[float], signed: bool = False) -> str:
    """A mean and its interval over seeds, in percent."""
    interval = student_interval([100 * value for value in values])
    mean = f"{interval.mean:{'+' if signed else ''}.1f}"
    return mean if interval.high is None else f"{mean} ± {interval.high - interval.mean:.1f}"


def cost_table(found: Mapping[str, Mapping[str, Results]]) -> str:
    """Bytes and seconds of a round, and the seconds to the accuracy that FedAvg-LoRA ends with."""
    head = ["", "kB a client and round, up", "down", "CPU s a round", "reaches FedAvg-LoRA's final accuracy on",
            "in so many times less CPU s", "wall s"]  # fmt: skip
    rows = []
    for name, results in found.items():
        costs = [one["cost"] for same in results.values() for one in same if "cost" in one]
        row = [CONTENDERS[name].title]
        for key, unit in (("bytes_up", 1e3), ("bytes_down", 1e3), ("cpu_seconds", 1.0)):
            known = [cost[key] for cost in costs if key in cost]
            row.append(f"{fmean(known) / unit:.2f}" if known else "")
        rows.append([*row, *speed(results, found.get("fedavg", {}))])
    return markdown_table(head, rows)


def speed(results: Mapping[str, Results], rival: Mapping[str, Results]) -> list[str]:
    """On how many data sets FedAvg-LoRA's final accuracy is reached, and how much sooner (geometric means)."""
    ratios = []
    shared = [dataset for dataset in results if dataset in rival]
    for dataset in shared:
        theirs = course(rival[dataset])
        if not theirs:
            continue
        target = theirs[-1].accuracy
        mine, first = reaches(course(results[dataset]), target), reaches(theirs, target)
        if mine is not None and first is not None:
            ratios.append((first.cpu / mine.cpu, first.wall / mine.wall))
    count = f"{len(ratios)} of {len(shared)}"
    return [count, *(f"{geometric_mean(one):.2f}" for one in zip(*ratios, strict=True))] if ratios else [count, "", ""]


def long_table(found: Mapping[str, Mapping[str, Results]]) -> str:
    """CPU seconds to the accuracy that FedAvg-LoRA ends its long runs with, set by set."""
    rival = found.get("fedavg_long", {})
    rows = []
    for name in ("fedavg_long", "fibecfed_long", "fibecfed"):
        row = [CONTENDERS[name].title]
        for dataset, theirs in rival.items():
            mine, target = course(found.get(name, {}).get(dataset, [])), course(theirs)
            point = reaches(mine, target[-1].accuracy) if target else None
            end = f", ends at {100 * mine[-1].accuracy:.1f}" if mine else ""
            row.append(f"{'never' if point is None else f'{point.cpu:.1f} s'}{end}")
        rows.append([*row, *speed(found.get(name, {}), rival)])
    return markdown_table(["to FedAvg-LoRA's accuracy after 100 rounds", *rival, "on", "times less CPU", "wall"], rows)


def tuning_table(study: Study, found: Mapping[str, Mapping[str, Results]]) -> str:
    """The learning rates that were chosen, marked where they are the highest or the lowest of those tried."""
    rows = []
    for name, results in found.items():
        row = [CONTENDERS[name].title]
        for dataset in study.datasets:
            tried = study.tuning(name, dataset) if dataset in results else None
            best = None if tried is None else best_of(tried)[0]
            edge = tried is not None and at_the_edge(tried)
            row.append("" if best is None else f"{best[LEARNING_RATE]:g}{' (edge)' if edge else ''}")
        rows.append(row)
    return markdown_table(["learning rate", *study.datasets], rows)


def plot(found: Mapping[str, Mapping[str, Results]]) -> str:
    """Mean accuracy over the data sets against mean CPU seconds of training, as an SVG picture."""
    drawn = [name for name in DRAWN if name in found]
    datasets = set.intersection(*(set(found[name]) for name in drawn))
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in drawn:
        courses = [course(results) for dataset, results in found[name].items() if dataset in datasets]
        if courses and all(courses):
            lines[name] = [
                (fmean(point.cpu for point in same), 100 * fmean(point.accuracy for point in same))
                for same in zip(*courses, strict=True)
            ]
    across = f"CPU seconds of training, mean of {len(datasets)} data sets and three seeds"
    named = [Line(CONTENDERS[name].title, DRAWN[name], points) for name, points in lines.items()]
    return picture([Chart(named, across, height=420.0, right=210.0, unit=" %")], "Accuracy over CPU seconds")
