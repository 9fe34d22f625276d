"""Does federation pay on real text, and with which algorithm? Dolly and Super-NaturalInstructions, the embedded model.

FedAvg, FedProx, SCAFFOLD, FedAvgM, FedAdagrad, FedYogi and FedAdam against every client alone and all data pooled. Each
gets the same effort: the same number of configurations, found by the same search, on validation data with a seed that
is not reported; then three seeds on the test split. A cell is done once: killed at any time, the same command goes on.
`--report FILE` prints what is there so far and writes it as Markdown, without training anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import Cell, CellFile, Workbench, carry_on, markdown_table, told_interval
from harness import shared_folder

NAME = "federated_study"
RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TUNING_SEED = 1000
SEEDS = (0, 1, 2)
CONFIGURATIONS = 6
# A change of the learning rate by a thousandth changed a validation loss of Dolly's by as much.
NO_DIFFERENCE = 0.0025
LOCAL_RATE = "local.learning_rate"
COMMON: dict[str, Any] = {
    "model.base": "pocket",
    "model.dtype": "bfloat16",
    "model.adapter.targets": "all-linear",
    "local.optimizer": "adamw",
    "local.schedule": "cosine",
    "data.template": "chat",
    "runtime.threads": 1,
    "evaluation.exact_match": False,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "dolly": {
        "data.source": "instruct/dolly15k.jsonl.gz",
        "data.max_tokens": 128,
        "federation.rounds": 8,
        "federation.clients_per_round": 4,
        "local.steps": 4,
        "local.batch_size": 4,
        "evaluation.max_examples": 20,
    },
    "superni": {
        "data.source": "instruct/superni_train.jsonl.gz",
        "data.max_tokens": 512,
        "federation.rounds": 15,
        "federation.clients_per_round": 5,
        "local.steps": 2,
        "local.batch_size": 2,
        "evaluation.max_clients": 50,
    },
}
QUICK = {"federation.rounds": 2, "local.steps": 1, "evaluation.max_examples": 2, "evaluation.max_clients": 4}
QUICK_SEEDS = (0, 1)
QUICK_CONFIGURATIONS = 2


@dataclass(frozen=True)
class Axis:
    """Something to tune.

    Args:
        key: its name in the recipe; a name without dots is the algorithm's parameter.
        start: where the search begins.
        factor: by how much it goes up and down at first.
    """

    key: str
    start: float
    factor: float


@dataclass(frozen=True)
class Contender:
    """What is compared.

    Args:
        title: as printed.
        arm: of a run.
        own: the parameter of its algorithm that is tuned beside the local learning rate.
    """

    title: str
    arm: str = "federated"
    own: Axis | None = None


LOCAL = Axis(LOCAL_RATE, 1e-2, 3.0)
# Adaptive methods move every entry by about this much a round, FedAvg by the local rate times the steps.
ADAPTIVE = Axis("server_learning_rate", 3e-2, 3.0)
CONTENDERS = {
    "local": Contender("each alone", "local"),
    "centralized": Contender("all data pooled", "centralized"),
    "fedavg": Contender("FedAvg"),
    "fedprox": Contender("FedProx", own=Axis("mu", 0.1, 10.0)),
    "scaffold": Contender("SCAFFOLD"),
    # With the usual momentum of 0.9, 0.1 moves as far as FedAvg in the long run.
    "fedavgm": Contender("FedAvgM", own=Axis("server_learning_rate", 0.1, 3.0)),
    "fedadagrad": Contender("FedAdagrad", own=ADAPTIVE),
    "fedyogi": Contender("FedYogi", own=ADAPTIVE),
    "fedadam": Contender("FedAdam", own=ADAPTIVE),
}
Configuration = dict[str, float]


class Study:
    """The cells of one data set.

    Args:
        dataset: its name.
        cells: those that are done.
        workbench: does the others; None: they stay missing.
        quick: small cells that prove nothing.
    """

    def __init__(self, dataset: str, cells: CellFile, workbench: Workbench | None, quick: bool) -> None:
        self.dataset = dataset
        self.cells = cells
        self.workbench = workbench
        self.setting = COMMON | SETTINGS[dataset] | (QUICK if quick else {})
        self.seeds = QUICK_SEEDS if quick else SEEDS
        self.configurations = QUICK_CONFIGURATIONS if quick else CONFIGURATIONS

    def result(self, name: str, configuration: Configuration, seed: int, split: str) -> dict[str, Any] | None:
        """The result of one cell: looked up, or trained where there is a workbench."""
        cell: Cell = {
            "dataset": self.dataset,
            "contender": name,
            "configuration": configuration,
            "seed": seed,
            "split": split,
            "setting": self.setting,
        }
        if self.workbench is None:
            return self.cells.result(cell)
        return self.cells.result_of(cell, lambda: self._train(name, configuration, seed, split))

    def _train(self, name: str, configuration: Configuration, seed: int, split: str) -> dict[str, Any]:
        assert self.workbench is not None
        arm = CONTENDERS[name].arm if name in CONTENDERS else name
        algorithm = {key: value for key, value in configuration.items() if "." not in key}
        setting = {
            **self.setting,
            "data.source": str(shared_folder() / "data" / self.setting["data.source"]),
            **{key: value for key, value in configuration.items() if "." in key},
            "federation.algorithm": {"name": name if arm == "federated" else "fedavg", **algorithm},
            "baselines": [arm] if arm in {"local", "centralized"} else [],
            "evaluation.split": split,
            "evaluation.every": None,
            "seed": seed,
        }
        return self.workbench.train(RECIPES / f"{self.dataset}.yaml", setting, arm)

    def tuning(self, name: str) -> list[tuple[Configuration, float]] | None:
        """The configurations that were tried, with their validation losses; None where one is missing."""
        axes = [axis for axis in (CONTENDERS[name].own, LOCAL) if axis is not None]
        missing = False

        def loss(configuration: Configuration) -> float:
            nonlocal missing
            result = self.result(name, configuration, TUNING_SEED, "validation")
            if result is None:
                missing = True
                return math.nan
            return own_loss(result)

        tried = compass_search(loss, axes, self.configurations)
        return None if missing else tried

    def final(self, name: str) -> list[dict[str, Any]] | None:
        """The results of the best configuration, seed by seed; None where one is missing."""
        if name == "base":
            configuration: Configuration = {}
        else:
            tried = self.tuning(name)
            if tried is None:
                return None
            configuration, _ = best_of(tried)
        results = [self.result(name, configuration, seed, "test") for seed in self.seeds]
        return [result for result in results if result is not None] if None not in results else None


def own_loss(result: Mapping[str, Any]) -> float:
    """The mean over clients of the loss on a client's own examples; infinite where the run diverged."""
    return float(result["own"]["loss"]) if "own" in result else math.inf


def best_of(tried: Sequence[tuple[Configuration, float]]) -> tuple[Configuration, float]:
    """The configuration with the lowest loss."""
    return min(tried, key=lambda one: one[1])


def compass_search(
    loss: Callable[[Configuration], float], axes: Sequence[Axis], budget: int
) -> list[tuple[Configuration, float]]:
    """Try configurations: up and down one axis after another, on as long as it gets better, then with smaller steps.

    Args:
        loss: of a configuration.
        axes: what may be changed, in this order; with the last one alone for an arm that has no other.
        budget: how many configurations are tried, neither more nor fewer.

    Returns:
        Configurations and losses in the order in which they were tried.
    """
    losses: dict[tuple[float, ...], float] = {}

    def configuration(place: tuple[float, ...]) -> Configuration:
        values = (axis.start * axis.factor**steps for axis, steps in zip(axes, place, strict=True))
        return {axis.key: float(f"{value:.3g}") for axis, value in zip(axes, values, strict=True)}

    def loss_at(place: tuple[float, ...]) -> float:
        if place not in losses:
            if len(losses) == budget:
                return math.inf
            losses[place] = loss(configuration(place))
        return losses[place]

    # In steps from the start along every axis, so that the same place is never approached by roundings of it.
    best = (0.0,) * len(axes)
    step = 1.0
    loss_at(best)
    while len(losses) < budget:
        for number in range(len(axes)):
            for direction in (step, -step):
                began = best
                while True:
                    there = (*best[:number], best[number] + direction, *best[number + 1 :])
                    if not loss_at(there) < loss_at(best) - NO_DIFFERENCE:
                        break
                    best = there
                if best != began:
                    break
        step /= 2
    return [(configuration(place), value) for place, value in losses.items()]


def at_the_edge(tried: Sequence[tuple[Configuration, float]]) -> list[str]:
    """The keys in which the best configuration is the highest or the lowest of those tried."""
    best, _ = best_of(tried)
    return [
        key for key, value in best.items() if value in (max(c[key] for c, _ in tried), min(c[key] for c, _ in tried))
    ]


def run(study: Study) -> None:
    """Do every cell that is missing."""
    print(f"{study.dataset}: {study.configurations} configurations each, then seeds {study.seeds}", flush=True)
    study.final("base")
    for name in CONTENDERS:
        study.tuning(name)
    for name in CONTENDERS:
        study.final(name)


def report(study: Study) -> str:
    """The tables of one data set, as Markdown; arms that are not done yet are named."""
    blocks = [f"### {study.dataset}", _results_table(study), _tuning_table(study)]
    return "\n\n".join(blocks)


def _results_table(study: Study) -> str:
    results = {name: study.final(name) for name in ("base", *CONTENDERS)}
    has_global = any(result and "global" in result[0] for result in results.values())
    head = [
        "",
        "configuration",
        "own test",
        "against alone",
        "against pooled",
        *(["global test"] if has_global else []),
    ]
    rows = []
    for name, found in results.items():
        title = CONTENDERS[name].title if name in CONTENDERS else "untuned"
        if found is None:
            rows.append([title, "not done", *[""] * (len(head) - 2)])
            continue
        own = [own_loss(result) for result in found]
        tried = None if name == "base" else study.tuning(name)
        row = [title, "" if tried is None else told(best_of(tried)[0]), told_interval(own)]
        for rival in ("local", "centralized"):
            theirs = results[rival]
            same = theirs is None or name == rival
            row.append("" if same else told_interval(_differences(own, theirs or []), signed=True))
        if has_global:
            row.append(told_interval([result["global"]["loss"] for result in found]))
        rows.append(row)
    return markdown_table(head, rows)


def _differences(own: Sequence[float], rival: Sequence[Mapping[str, Any]]) -> list[float]:
    return [mine - own_loss(theirs) for mine, theirs in zip(own, rival, strict=True)]


def _tuning_table(study: Study) -> str:
    rows = []
    for name, contender in CONTENDERS.items():
        tried = study.tuning(name)
        if tried is None:
            continue
        best, _ = best_of(tried)
        losses = ", ".join(f"{'**' * (c == best)}{told(c)}: {value:.3f}{'**' * (c == best)}" for c, value in tried)
        rows.append([contender.title, losses, ", ".join(map(_short, at_the_edge(tried))) or "none"])
    return markdown_table(["", "validation loss, in the order tried", "at the edge of what was tried"], rows)


def told(configuration: Configuration) -> str:
    """A configuration in few words."""
    return " ".join(f"{_short(key)} {value:g}" for key, value in configuration.items())


def _short(key: str) -> str:
    return {LOCAL_RATE: "local", "server_learning_rate": "server"}.get(key, key)


def found(study: Study) -> dict[str, Any]:
    """What was found on one data set, for programs."""
    return {
        name: {"tuning": None if name == "base" else study.tuning(name), "final": study.final(name)}
        for name in ("base", *CONTENDERS)
    }


def main() -> None:
    """Go on with the study, or report on it."""
    carry_on(NAME, __doc__, SETTINGS, Study, run, report, found)


if __name__ == "__main__":
    main()
