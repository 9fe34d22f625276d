"""Which kind of adapter gains how much from federation? LoRA, prefix tuning, P-tuning, prompt tuning, side by side.

The table of FS-LLM (arXiv 2309.00363) with the embedded model: every kind federated by FedAvg, and with every client
alone, on Dolly's ten natural clients and on GSM8K dealt to ten like ones. Each kind and arm gets a learning rate of its
own, found by the same search with the same number of tries on validation data and a seed that is not reported; then
three seeds on the test split. A cell is done once: killed at any time, the same command goes on. `--report FILE` prints
what is there so far and writes it as Markdown, without training anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cells import Cell, CellFile, Workbench, carry_on, markdown_table, told_interval
from federated_study import Axis, Configuration, at_the_edge, best_of, compass_search, own_loss, told
from harness import shared_folder

NAME = "adapter_kinds"
TUNING_SEED = 1000
SEEDS = (0, 1, 2)
TRIES = 4
LEARNING_RATE = "local.learning_rate"
ARMS = {"federated": "FedAvg", "local": "each alone"}
COMMON: dict[str, Any] = {
    "model.base": "pocket",
    "model.dtype": "bfloat16",
    "data.template": "chat",
    "federation.rounds": 8,
    "federation.clients_per_round": 4,
    "local.steps": 4,
    "local.batch_size": 4,
    "local.optimizer": "adamw",
    "local.schedule": "cosine",
    "evaluation.every": None,
    "evaluation.exact_match": False,
    "evaluation.max_examples": 20,
    "runtime.threads": 1,
    "runtime.memory_gb": None,
}
DATASETS: dict[str, dict[str, Any]] = {
    "dolly": {
        "data.source": "instruct/dolly15k.jsonl.gz",
        "data.fields": {"prompt": "instruction", "context": "context", "response": "response"},
        "data.max_tokens": 128,
        "data.partition": {"kind": "by_key", "key": "client"},
        "data.global_test": {"where": {"client": -1}},
    },
    "gsm8k": {
        "data.source": "instruct/gsm8k_train.jsonl.gz",
        "data.fields": {"prompt": "question", "response": "answer"},
        "data.max_tokens": 192,
        "federation.rounds": 5,
        "evaluation.max_examples": 10,
        "data.partition": {"kind": "iid", "clients": 10},
    },
}
QUICK = {
    "federation.rounds": 1,
    "federation.clients_per_round": 2,
    "local.steps": 1,
    "local.batch_size": 1,
    "data.max_tokens": 64,
    "evaluation.max_clients": 2,
    "evaluation.max_examples": 1,
}
QUICK_SEEDS = (0,)
QUICK_TRIES = 1


@dataclass(frozen=True)
class Kind:
    """A kind of adapter.

    Args:
        title: as printed.
        adapter: its section of the recipe.
        rate: the learning rate at which the search begins.
    """

    title: str
    adapter: dict[str, Any]
    rate: float


KINDS = {
    "lora": Kind("LoRA", {"kind": "lora", "rank": 8, "alpha": 16, "targets": "all-linear"}, 1e-2),
    "prefix_tuning": Kind("prefix tuning", {"kind": "prefix_tuning", "virtual_tokens": 20}, 3e-1),
    "p_tuning": Kind("P-tuning", {"kind": "p_tuning", "virtual_tokens": 20, "hidden_size": 128}, 1e-2),
    "prompt_tuning": Kind("prompt tuning", {"kind": "prompt_tuning", "virtual_tokens": 20}, 1e-1),
}


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
        self.setting = COMMON | DATASETS[dataset] | (QUICK if quick else {})
        self.seeds = QUICK_SEEDS if quick else SEEDS
        self.tries = QUICK_TRIES if quick else TRIES

    def result(self, kind: str, arm: str, configuration: Configuration, seed: int, split: str) -> dict[str, Any] | None:
        """The result of one cell: looked up, or trained where there is a workbench."""
        setting = self.setting | configuration
        cell: Cell = {
            "dataset": self.dataset,
            "kind": kind,
            "arm": arm,
            "seed": seed,
            "split": split,
            "setting": setting | {"model.adapter": KINDS[kind].adapter},
        }
        workbench = self.workbench
        if workbench is None:
            return self.cells.result(cell)
        located = {
            **cell["setting"],
            "data.source": str(shared_folder() / "data" / setting["data.source"]),
            "baselines": ["local"] if arm == "local" else [],
            "evaluation.split": split,
            "seed": seed,
        }
        return self.cells.result_of(cell, lambda: workbench.train("quickstart", located, arm))

    def tuning(self, kind: str, arm: str) -> list[tuple[Configuration, float]] | None:
        """The learning rates that were tried, with their validation losses; None where one is missing."""
        missing = False

        def loss(configuration: Configuration) -> float:
            nonlocal missing
            result = self.result(kind, arm, configuration, TUNING_SEED, "validation")
            if result is None:
                missing = True
                return math.nan
            return own_loss(result)

        tried = compass_search(loss, [Axis(LEARNING_RATE, KINDS[kind].rate, 3.0)], self.tries)
        return None if missing else tried

    def final(self, kind: str, arm: str) -> list[dict[str, Any]] | None:
        """The results at the best learning rate, seed by seed; None where one is missing."""
        configuration: Configuration = {}
        if arm != "base":
            tried = self.tuning(kind, arm)
            if tried is None:
                return None
            configuration, _ = best_of(tried)
        results = [self.result(kind, arm, configuration, seed, "test") for seed in self.seeds]
        return [result for result in results if result is not None] if None not in results else None


def run(study: Study) -> None:
    """Do every cell that is missing."""
    print(f"{study.dataset}: {study.tries} learning rates for each arm, then seeds {study.seeds}", flush=True)
    study.final("lora", "base")
    for kind in KINDS:
        for arm in ARMS:
            study.final(kind, arm)


def report(study: Study) -> str:
    """The tables of one data set, as Markdown; arms that are not done yet are named."""
    base = study.final("lora", "base")
    untuned = "not done" if base is None else told_interval([own_loss(result) for result in base])
    return "\n\n".join([f"### {study.dataset}", _results_table(study, untuned), _tuning_table(study)])


def _results_table(study: Study, untuned: str) -> str:
    head = [
        "own test loss",
        *ARMS.values(),
        "difference",
        "trained parameters",
        "CPU s a round",
        "kB a client and round, up",
        "down",
    ]
    rows = [["untuned", untuned, *[""] * (len(head) - 2)]]
    for name, kind in KINDS.items():
        found = {arm: study.final(name, arm) for arm in ARMS}
        losses = {arm: [own_loss(result) for result in results] for arm, results in found.items() if results}
        row = [kind.title, *(told_interval(losses[arm]) if arm in losses else "not done" for arm in ARMS)]
        if len(losses) < len(ARMS):
            rows.append([*row, *[""] * (len(head) - len(row))])
            continue
        pairs = zip(losses["federated"], losses["local"], strict=True)
        row.append(told_interval([mine - theirs for mine, theirs in pairs], signed=True))
        rows.append([*row, *_costs(found["federated"] or [])])
    return markdown_table(head, rows)


def _costs(results: Sequence[dict[str, Any]]) -> list[str]:
    """What a round of the federation takes."""
    costs = [result["cost"] for result in results if "cost" in result]
    if not costs:
        return ["", "", "", ""]
    kilobytes = [f"{fmean(cost[key] for cost in costs) / 1e3:.1f}" for key in ("bytes_up", "bytes_down")]
    return [f"{costs[0]['parameters']:,}", f"{fmean(cost['cpu_seconds'] for cost in costs):.2f}", *kilobytes]


def _tuning_table(study: Study) -> str:
    rows = []
    for name, kind in KINDS.items():
        for arm, title in ARMS.items():
            tried = study.tuning(name, arm)
            if tried is None:
                continue
            best, _ = best_of(tried)
            losses = ", ".join(f"{'**' * (c == best)}{told(c)}: {value:.3f}{'**' * (c == best)}" for c, value in tried)
            rows.append([f"{kind.title}, {title}", losses, "yes" if at_the_edge(tried) else "no"])
    return markdown_table(["", "validation loss by learning rate, in the order tried", "at the edge"], rows)


def found(study: Study) -> dict[str, Any]:
    """What was found on one data set, for programs."""
    return {
        kind: {arm: {"tuning": study.tuning(kind, arm), "final": study.final(kind, arm)} for arm in ARMS}
        for kind in KINDS
    }


def main() -> None:
    """Go on with the study, or report on it."""
    carry_on(NAME, __doc__, DATASETS, Study, run, report, found)


if __name__ == "__main__":
    main()
