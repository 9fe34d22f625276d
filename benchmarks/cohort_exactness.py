"""Is a client's result the same to the last bit in any company? Every client of the quickstart, alone and together.

Trains one round of `pocket-tasks` with cohorts of 1, 3 and 16, in fp32 and bf16, with one and two threads, and counts
adapter entries that differ. `--json FILE` also writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fedloom.arms import build_arms
from fedloom.recipe import load_recipe
from fedloom.session import open_session

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"


def deltas(cohort: int, dtype: str, threads: int, steps: int, folder: Path) -> dict[str, torch.Tensor]:
    """Every client's update of one round, as one vector each."""
    overrides = [
        f"model.dtype={dtype}",
        f"runtime={{cohort: {cohort}, threads: {threads}}}",
        f"local.steps={steps}",
        "federation.clients_per_round=16",
        "baselines=[]",
    ]
    session = open_session(load_recipe(RECIPE, overrides), folder)
    adapter = session.grouped.initial(0)
    arm = build_arms(session)[0]
    updates = session.runtime.train(arm.plan(1, {}), adapter, arm.algorithm)
    return {update.client: session.grouped.flatten(update.delta) for update in updates}


def main() -> None:
    """Compare cohorts and print how many entries differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two local steps instead of eight")
    arguments = parser.parse_args()
    steps = 2 if arguments.quick else 8
    table = Table("base", "threads", "cohort", "entries", "differing", "largest difference")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "bfloat16"):
            for threads in (1, 2):
                alone = deltas(1, dtype, threads, steps, Path(folder))
                for cohort in (3, 16):
                    together = deltas(cohort, dtype, threads, steps, Path(folder))
                    gaps = torch.stack([(together[client] - alone[client]).abs() for client in alone])
                    row = (dtype, threads, cohort, gaps.numel(), int((gaps > 0).sum()), float(gaps.max()))
                    rows.append(row)
                    table.add_row(*map(str, row))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
