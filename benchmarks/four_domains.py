"""What do four specialists gain from learning together? General, code, mathematics and finance, the embedded model.

Each domain is one client. Every specialist (a client alone), the federation and all data pooled are tested on all four
domains: one table. The learning rates of all three are found by the same search with the same number of trials on
validation data, with a seed that is not reported; then three seeds on the test split. A cell is done once: killed at
any time, the same command goes on. `--report FILE` writes what is there so far as Markdown and trains nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cells import Cell, CellFile, Workbench, markdown_table, told_interval, use_one_thread
from federated_study import (
    LOCAL,
    RECIPES,
    TUNING_SEED,
    Configuration,
    at_the_edge,
    best_of,
    compass_search,
    own_loss,
    told,
)
from fedloom.report.events import strict_json
from harness import arguments_of, machine, shared_folder, skip

NAME = "four_domains"
SEEDS, QUICK_SEEDS = (0, 1, 2), (0, 1)
CONFIGURATIONS, QUICK_CONFIGURATIONS = 5, 2
QUESTION = "What is the sentiment of this news? Please choose an answer from {negative/neutral/positive}."
INSTRUCTION = {"prompt": "instruction", "context": "input", "response": "output"}
DOMAINS: dict[str, dict[str, Any]] = {
    "general": {"path": "instruct/alpaca_20k.jsonl.gz", "fields": INSTRUCTION, "examples": 2000},
    "code": {"path": "instruct/code_alpaca_2k.jsonl.gz", "fields": INSTRUCTION},
    "mathematics": {
        "path": "instruct/gsm8k_train.jsonl.gz",
        "fields": {"prompt": "question", "response": "answer"},
        "examples": 2000,
    },
    "finance": {
        "path": "finance/fiqa_sa.jsonl.gz",
        "fields": {"prompt": "text", "response": "label"},
        "instruction": QUESTION,
    },
}
SETTING: dict[str, Any] = {
    "model.base": "pocket",
    "model.dtype": "bfloat16",
    "model.adapter": {"kind": "lora", "rank": 16, "alpha": 32, "targets": "all-linear"},
    "data.template": "chat",
    "data.max_tokens": 256,
    "data.split": {"validation": 0.1, "test": 0.1},
    "federation.rounds": 8,
    "local.steps": 4,
    "local.batch_size": 8,
    "evaluation.max_examples": 50,
    "evaluation.exact_match": False,
    "runtime.threads": 1,
}
QUICK = {"federation.rounds": 2, "local.steps": 1, "evaluation.max_examples": 2}
TITLES = {"local": "each alone", "federated": "federated (FedAvg)", "centralized": "all data pooled"}


class Collaboration:
    """The cells of the collaboration.

    Args:
        cells: those that are done.
        workbench: does the others; None: they stay missing.
        quick: small cells that prove nothing.
    """

    def __init__(self, cells: CellFile, workbench: Workbench | None, quick: bool) -> None:
        self.cells = cells
        self.workbench = workbench
        self.setting = SETTING | (QUICK if quick else {})
        self.seeds = QUICK_SEEDS if quick else SEEDS
        self.configurations = QUICK_CONFIGURATIONS if quick else CONFIGURATIONS

    def result(self, arm: str, configuration: Configuration, seed: int, split: str) -> dict[str, Any] | None:
        """The result of one cell: looked up, or trained where there is a workbench."""
        cell: Cell = {
            "arm": arm,
            "configuration": configuration,
            "seed": seed,
            "split": split,
            "setting": {"domains": DOMAINS, **self.setting},
        }
        workbench = self.workbench
        if workbench is None:
            return self.cells.result(cell)
        setting = {
            **self.setting,
            **configuration,
            "data.source": [
                {"name": name, **source, "path": str(shared_folder() / "data" / source["path"])}
                for name, source in DOMAINS.items()
            ],
            "baselines": [arm] if arm in {"local", "centralized"} else [],
            # Specialists are tested on everybody's test; an adapter for all is anyway.
            "evaluation.cross": arm == "local" and split == "test",
            "evaluation.split": split,
            "seed": seed,
        }
        return self.cells.result_of(cell, lambda: workbench.train(RECIPES / "four-domains.yaml", setting, arm))

    def tuning(self, arm: str) -> list[tuple[Configuration, float]] | None:
        """The learning rates that were tried, with their validation losses; None where one is missing."""
        results: list[dict[str, Any] | None] = []

        def loss(configuration: Configuration) -> float:
            results.append(self.result(arm, configuration, TUNING_SEED, "validation"))
            return own_loss(results[-1] or {})

        tried = compass_search(loss, [LOCAL], self.configurations)
        return None if None in results else tried

    def final(self, arm: str) -> list[dict[str, Any]] | None:
        """The results at the best learning rate, seed by seed; None where one is missing."""
        tried = [({}, 0.0)] if arm == "base" else self.tuning(arm)
        if tried is None:
            return None
        results = [self.result(arm, best_of(tried)[0], seed, "test") for seed in self.seeds]
        return [result for result in results if result is not None] if None not in results else None


def matrix(study: Collaboration) -> str:
    """The table: losses of every adapter (rows) on every domain's test (columns)."""
    rows = [_row("untuned", study.final("base"), lambda result: result["clients"])]
    for specialist in DOMAINS:
        found = study.final("local")
        rows.append(_row(f"{specialist} alone", found, lambda result, name=specialist: result["cross"][name]))
    for arm in ("federated", "centralized"):
        rows.append(_row(TITLES[arm], study.final(arm), lambda result: result["clients"]))
    return markdown_table(["", *DOMAINS, "mean of the four"], rows)


def _row(
    title: str, found: list[dict[str, Any]] | None, on: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> list[str]:
    if found is None or any("failed" in result for result in found):
        return [title, "not done" if found is None else "failed", *[""] * len(DOMAINS)]
    by_seed = [on(result) for result in found]
    means = [sum(one[domain] for domain in DOMAINS) / len(DOMAINS) for one in by_seed]
    return [
        title,
        *(told_interval([one[domain] for one in by_seed]) for domain in DOMAINS),
        told_interval(means),
    ]


def tuning_table(study: Collaboration) -> str:
    """The learning rates that were tried."""
    rows = []
    for arm, title in TITLES.items():
        tried = study.tuning(arm)
        if tried is None:
            rows.append([title, "not done", ""])
            continue
        best, _ = best_of(tried)
        losses = ", ".join(f"{'**' * (c == best)}{told(c)}: {value:.3f}{'**' * (c == best)}" for c, value in tried)
        rows.append([title, losses, "yes" if at_the_edge(tried) else "no"])
    return markdown_table(["", "validation loss by learning rate, in the order tried", "best at the edge"], rows)


def main() -> None:
    """Go on with the cells, or report on them."""
    parser = arguments_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path(f"{NAME}.jsonl"), metavar="FILE", help="the finished cells")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables, train nothing")
    arguments: argparse.Namespace = parser.parse_args()
    missing = [name for name, one in DOMAINS.items() if not (shared_folder() / "data" / one["path"]).is_file()]
    if missing:
        return skip(NAME, arguments, f"no data for {', '.join(missing)} beside the repository (set FEDLOOM_SHARED)")
    use_one_thread()
    cells = CellFile(arguments.out)
    workbench = None if arguments.report else Workbench(arguments.out.with_suffix(".data"))
    study = Collaboration(cells, workbench, arguments.quick)
    text = f"{matrix(study)}\n\n{tuning_table(study)}\n"
    print(text)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    if arguments.json:
        found = {arm: {"final": study.final(arm)} for arm in ("base", *TITLES)}
        for arm in TITLES:
            found[arm]["tuning"] = study.tuning(arm)
        written = {"benchmark": NAME, "quick": arguments.quick, "machine": machine(), "results": found}
        arguments.json.write_text(json.dumps(strict_json(written), indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
