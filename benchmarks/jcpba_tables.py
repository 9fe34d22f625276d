"""The tables and the plot of benchmarks/jcpba.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

from cells import markdown_table
from federated_study import at_the_edge, best_of, own_loss
from fedloom.statistics import student_interval
from jcpba_cells import BUDGETS, JCPBA, LEARNING_RATE, PLAIN, SCHEMES, Study, order
from line_charts import Chart, Line, picture

# The share of the unpruned fall of the loss, from the base to the last round, at which the target lies.
FALLS = (0.9, 0.8)
DRAWN = {
    (JCPBA, BUDGETS[0]): "#1f5fd0",
    (JCPBA, BUDGETS[1]): "#7fa8ee",
    ("optimal_pruning_equal_bandwidth", BUDGETS[0]): "#2aa5c9",
    ("uniform_pruning_optimal_bandwidth", BUDGETS[0]): "#138a6b",
    ("random_pruning", BUDGETS[0]): "#8d6bd1",
    ("no_pruning_optimal_bandwidth", BUDGETS[0]): "#e0861a",
    (PLAIN, BUDGETS[0]): "#c8443c",
}
# Of a clock, the means over clients.
TOLD = ("prune_rate", "compute_seconds", "send_seconds")
# By scheme and budget, and then by seed, the results.
Found = Mapping[tuple[str, float], Mapping[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class Point:
    """Where a run stands at an evaluation.

    Args:
        round: rounds done.
        seconds: simulated seconds of them.
        loss: mean over clients on their own test examples.
    """

    round: float
    seconds: float
    loss: float


def course(result: Mapping[str, Any]) -> list[Point]:
    """The loss against simulated time, from the base on; nothing where training diverged."""
    if "curve" not in result:
        return []
    passed = [0.0, *accumulate(result["clock"]["seconds"])]
    evaluated = [(one["round"], one["own"]["loss"]) for one in result["curve"]]
    return [Point(number, passed[number], loss) for number, loss in [(0, own_loss(result["base"])), *evaluated]]


def reaches(points: Sequence[Point], target: float) -> Point | None:
    """Where a loss is first as low as a target, between two evaluations on the straight line between them."""
    for before, after in pairwise(points):
        if after.loss <= target:
            part = 1.0 if before.loss == after.loss else max(0.0, (before.loss - target) / (before.loss - after.loss))
            return Point(
                before.round + part * (after.round - before.round),
                before.seconds + part * (after.seconds - before.seconds),
                target,
            )
    return None


def target_of(plain: Mapping[str, Any], fall: float) -> float:
    """The loss at a share of the way from the base to where training without pruning ends."""
    points = course(plain)
    return points[0].loss - fall * (points[0].loss - points[-1].loss)


def found_of(study: Study) -> dict[tuple[str, float], dict[int, dict[str, Any]]]:
    """What is done, by scheme and budget and then by seed, of the seeds that training without pruning is done with."""
    found: dict[tuple[str, float], dict[int, dict[str, Any]]] = {}
    known = [seed for seed in study.seeds if study.final(PLAIN, BUDGETS[0], seed) is not None]
    for scheme, budget in sorted(one for part in order() for one in part):
        seeds = {seed: result for seed in known if (result := study.final(scheme, budget, seed)) is not None}
        if seeds:
            found[scheme, budget] = seeds
    return found


def report(study: Study) -> str:
    """The tables of one data set, as Markdown; what is not done yet is left out."""
    found = found_of(study)
    tables = [time_table(found), cost_table(found)] if found else []
    return "\n\n".join([f"### {study.dataset}", *tables, tuning_table(study)])


def time_table(found: Found) -> str:
    """Simulated time to the target losses, and the final loss, beside no pruning with the same seeds."""
    head = ["scheme", "budget", "seeds", "s a round"]
    for fall in FALLS:
        head += [f"s to {100 * fall:g} % of the fall", "less than no pruning, equal"]
    rows = []
    for (scheme, budget), seeds in found.items():
        results = list(seeds.values())
        rivals = [found[PLAIN, BUDGETS[0]][seed] for seed in seeds]
        row = [*_named(scheme, budget), str(len(seeds))]
        row.append(f"{fmean(fmean(result['clock']['seconds']) for result in results):.2f}")
        for fall in FALLS:
            row += _to_target(results, rivals, fall)
        losses, theirs = [own_loss(result) for result in results], [own_loss(rival) for rival in rivals]
        row.append(told(losses))
        row.append("" if scheme == PLAIN else told([a - b for a, b in zip(losses, theirs, strict=True)], signed=True))
        rows.append(row)
    return markdown_table([*head, "final test loss", "minus no pruning"], rows)


def _named(scheme: str, budget: float) -> list[str]:
    return [SCHEMES[scheme].title, "" if scheme.startswith("no_pruning") else f"{budget:g}"]


def _to_target(results: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]], fall: float) -> list[str]:
    pairs = []
    for result, rival in zip(results, plain, strict=True):
        target = target_of(rival, fall)
        mine, theirs = reaches(course(result), target), reaches(course(rival), target)
        if mine is not None and theirs is not None:
            pairs.append((mine.seconds, 1 - mine.seconds / theirs.seconds))
    if len(pairs) < len(results):
        return [f"reached with {len(pairs)} of {len(results)} seeds", ""]
    seconds, saved = zip(*pairs, strict=True)
    same = all(value == 0 for value in saved)
    return [f"{fmean(seconds):.0f}", "" if same else f"{told([100 * value for value in saved], digits=1)} %"]


def cost_table(found: Found) -> str:
    """What a round costs a client: bytes that cross, and simulated seconds."""
    head = ["scheme", "budget", "mean rate", "kB up", "kB down", "simulated s of computing", "of sending"]
    rows = []
    for (scheme, budget), seeds in found.items():
        clocks = [result["clock"] for result in seeds.values()]
        costs = [result["cost"] for result in seeds.values() if "cost" in result]
        means = {key: fmean(fmean(clock[key]) for clock in clocks) for key in TOLD}
        row = [*_named(scheme, budget), f"{means['prune_rate']:.2f}"]
        row += [f"{fmean(cost[key] for cost in costs) / 1e3:.1f}" for key in ("bytes_up", "bytes_down")]
        rows.append([*row, f"{means['compute_seconds']:.2f}", f"{means['send_seconds']:.2f}"])
    return markdown_table(head, rows)


def tuning_table(study: Study) -> str:
    """The learning rates that were tried."""
    rows = []
    for prunes in (False, True):
        tried = study.tuning(prunes)
        if tried is not None:
            best, _ = best_of(tried)
            losses = [
                f"{'**' * (one == best)}{one[LEARNING_RATE]:g}: {loss:.3f}{'**' * (one == best)}" for one, loss in tried
            ]
            edge = "yes" if at_the_edge(tried) else "no"
            rows.append(["uniform pruning" if prunes else "no pruning", ", ".join(losses), edge])
    return markdown_table(["learning rate", "validation loss, in the order tried", "at the edge"], rows)


def told(values: Sequence[float], signed: bool = False, digits: int = 3) -> str:
    """A mean and its interval over seeds; "failed" where a value is missing."""
    if not all(math.isfinite(value) for value in values):
        return "failed"
    interval = student_interval(values)
    mean = f"{interval.mean:{'+' if signed else ''}.{digits}f}"
    return mean if interval.high is None else f"{mean} ± {interval.high - interval.mean:.{digits}f}"


def mean_course(results: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The means over seeds, evaluation by evaluation; nothing where a seed diverged."""
    courses = [course(result) for result in results]
    if not all(courses):
        return []
    return [
        Point(same[0].round, fmean(point.seconds for point in same), fmean(point.loss for point in same))
        for same in zip(*courses, strict=True)
    ]


def plot(found: Mapping[str, Found]) -> str:
    """Mean losses against mean simulated time, one chart for each data set below the other, as an SVG picture."""
    charts = [_chart(dataset, results) for dataset, results in found.items()]
    return picture(charts, "Test loss over simulated seconds")


def _chart(dataset: str, found: Found) -> Chart:
    lines = []
    for one, colour in DRAWN.items():
        # Means over other seeds would say nothing beside each other.
        if found.get(one, {}).keys() == found[PLAIN, BUDGETS[0]].keys():
            points = [(point.seconds, point.loss) for point in mean_course(list(found[one].values()))]
            if points:
                lines.append(Line(" ".join(_named(*one)), colour, points))
    heading = f"{dataset}: mean test loss"
    return Chart(lines, "simulated seconds", height=300.0, right=230.0, top=30.0, heading=heading)
