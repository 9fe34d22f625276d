"""Which rules survive which attackers? Three of ten clients attack in every round, under FedAvg and six robust rules.

The task is to tell the six kinds of TREC's questions apart; the clients hold like shares of the training questions and
all take part in every round. Model, adapter and rates are the quickstart's: nothing is tuned to an attack. The measure
is the final loss on TREC's test questions, against FedAvg's without attackers. A cell is done once: killed at any time,
the same command goes on. `--report FILE` prints what is there so far and writes it as Markdown; it trains nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cells import Cell, CellFile, Workbench, markdown_table, use_one_thread
from fedloom.report.events import strict_json
from harness import Target, arguments_of, machine, shared_folder, skip

NAME = "attacks"
CLIENTS = 10
SHARE = 0.3
ATTACKERS = 3
SEED = 0
TOLERANCE = 0.1
SURVIVORS = 3
ATTACKS = ("none", "sign_flip", "scale", "noise", "nan", "label_flip")
# Noise of ten times an update's length, as the other attacks send, did not harm even an average here.
NOISE_STRENGTH = 100.0
# What an average cannot withstand; nan is rejected before any rule sees it, label_flip is honest training otherwise.
FATAL = ("sign_flip", "scale", "noise")
RULES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "median": {},
    "trimmed_mean": {"trimmed_share": SHARE},
    "krum": {"byzantine_clients": ATTACKERS},
    "multi_krum": {"byzantine_clients": ATTACKERS, "kept_clients": CLIENTS - ATTACKERS},
    "geometric_median": {},
    # Half of what an honest update measures in the first rounds.
    "norm_bound": {"bound": 5.0},
}
SETTING: dict[str, Any] = {
    "seed": SEED,
    "model.dtype": "bfloat16",
    "data.source": "classification/trec.jsonl.gz",
    "data.fields": {"prompt": "text", "response": "label"},
    "data.max_tokens": 128,
    "data.global_test": {"where": {"split": "test"}},
    "data.partition": {"kind": "iid", "clients": CLIENTS},
    "federation.clients_per_round": CLIENTS,
    "federation.rounds": 8,
    "local.steps": 4,
    "local.batch_size": 4,
    "evaluation.every": None,
    "evaluation.exact_match": False,
    "evaluation.max_examples": 500,
    "evaluation.max_clients": 1,
    "baselines": [],
    "runtime.threads": 1,
}
QUICK = {"federation.rounds": 1, "local.steps": 1, "evaluation.max_examples": 10}


def data_file() -> Path:
    """TREC's questions."""
    return shared_folder() / "data" / SETTING["data.source"]


class Trials:
    """The cells of the table.

    Args:
        cells: those that are done.
        workbench: does the others; None: they stay missing.
        quick: small cells that prove nothing.
    """

    def __init__(self, cells: CellFile, workbench: Workbench | None, quick: bool) -> None:
        self.cells = cells
        self.workbench = workbench
        self.setting = SETTING | (QUICK if quick else {})

    def result(self, attack: str, rule: str) -> dict[str, Any] | None:
        """The result of one cell: looked up, or trained where there is a workbench."""
        setting = self.setting | {"federation.algorithm": {"name": rule, **RULES[rule]}}
        if attack != "none":
            strength = {"strength": NOISE_STRENGTH} if attack == "noise" else {}
            setting["federation.attack"] = {"kind": attack, "share": SHARE, **strength}
        cell: Cell = {"attack": attack, "rule": rule, "setting": setting}
        workbench = self.workbench
        if workbench is None:
            return self.cells.result(cell)
        located = {**setting, "data.source": str(data_file())}
        return self.cells.result_of(cell, lambda: workbench.train("quickstart", located, "federated"))

    def loss(self, attack: str, rule: str) -> float | None:
        """The final loss on everyone's test: infinite where the run diverged, None where it is not done."""
        result = self.result(attack, rule)
        if result is None:
            return None
        return math.inf if result["loss"] is None else float(result["loss"])

    def excess(self, attack: str, rule: str) -> float | None:
        """By what share the loss is above FedAvg's without attackers."""
        loss, honest = self.loss(attack, rule), self.loss("none", "fedavg")
        return None if loss is None or honest is None else loss / honest - 1


def report(trials: Trials) -> str:
    """The table attack by rule, as Markdown."""
    rows = [[attack, *(_told(trials, attack, rule) for rule in RULES)] for attack in ATTACKS]
    return markdown_table(["", *RULES], rows)


def _told(trials: Trials, attack: str, rule: str) -> str:
    loss, excess = trials.loss(attack, rule), trials.excess(attack, rule)
    if loss is None or excess is None:
        return "not done"
    if math.isinf(loss):
        return "diverged"
    told = f"{loss:.3f} ({100 * excess:+.0f} %)"
    return f"**{told}**" if excess <= TOLERANCE else told


def targets(trials: Trials) -> list[Target]:
    """FedAvg fails where it can, and enough rules survive every attack; only where all cells are done."""
    if any(trials.loss(attack, rule) is None for attack in ATTACKS for rule in RULES):
        return []
    found = []
    for attack in ATTACKS[1:]:
        survivors = [rule for rule in RULES if rule != "fedavg" and (trials.excess(attack, rule) or 0.0) <= TOLERANCE]
        found.append(Target(f"{attack}: robust rules within {TOLERANCE:.0%}", len(survivors), SURVIVORS))
        if attack in FATAL:
            found.append(Target(f"{attack}: FedAvg's loss above by", trials.excess(attack, "fedavg") or 0.0, TOLERANCE))
    return found


def main() -> None:
    """Go on with the cells, or report on them."""
    parser = arguments_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path(f"{NAME}.jsonl"), metavar="FILE", help="the finished cells")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table, train nothing")
    arguments = parser.parse_args()
    if not data_file().is_file():
        return skip(NAME, arguments, f"no {SETTING['data.source']} beside the repository (set FEDLOOM_SHARED)")
    use_one_thread()
    workbench = None if arguments.report else Workbench(arguments.out.with_suffix(".data"))
    trials = Trials(CellFile(arguments.out), workbench, arguments.quick)
    text = report(trials) + "\n"
    reached = targets(trials)
    print(text)
    for target in reached:
        print(f"{target.claim}: {target.value:.3g}, {'met' if target.met else 'missed'} (at least {target.bound:g})")
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")
    if arguments.json:
        losses = {attack: {rule: trials.loss(attack, rule) for rule in RULES} for attack in ATTACKS}
        written = {
            "benchmark": NAME,
            "quick": arguments.quick,
            "machine": machine(),
            "losses": losses,
            "targets": [target.as_dict() for target in reached],
        }
        arguments.json.write_text(json.dumps(strict_json(written), indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
