"""Learning rates of the quickstart's three arms, chosen on validation data with a seed that is not reported.

Every rate of one grid is tried for every arm: the same effort for each. `--json FILE` also writes the numbers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import fedloom

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
GRID = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)
TUNING_SEED = 1000
ARMS = ("federated", "local", "centralized")


def validation_results(rate: float, quick: bool) -> dict[str, dict[str, float]]:
    """Accuracy of every arm at one learning rate, on validation data: {arm: {own, global}}."""
    baselines = json.dumps([{"kind": arm, "learning_rate": rate} for arm in ARMS[1:]])
    overrides = [
        f"seed={TUNING_SEED}",
        f"local.learning_rate={rate}",
        f"baselines={baselines}",
        "evaluation={split: validation}",
    ]
    if quick:
        overrides.append("federation.rounds=2")
    with tempfile.TemporaryDirectory() as folder:
        metrics = fedloom.run(RECIPE, Path(folder) / "run", overrides).metrics
    results = {"federated": metrics["eval"], **metrics["baselines"]}
    return {arm: {part: results[arm][part]["accuracy"] for part in ("own", "global")} for arm in ARMS}


def main() -> None:
    """Run the grid and print what each arm does best with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two rounds only: does it run?")
    arguments = parser.parse_args()
    found = {rate: validation_results(rate, arguments.quick) for rate in GRID}
    table = Table("learning rate", *(f"{arm}: own / all" for arm in ARMS), title="validation accuracy, %")
    for rate, results in found.items():
        cells = [f"{100 * results[arm]['own']:.1f} / {100 * results[arm]['global']:.1f}" for arm in ARMS]
        table.add_row(f"{rate:g}", *cells)
    console = Console()
    console.print(table)
    best = {arm: max(GRID, key=lambda rate, arm=arm: sum(found[rate][arm].values())) for arm in ARMS}
    console.print("best by the sum of both:", best)
    if arguments.json:
        arguments.json.write_text(json.dumps({"grid": found, "best": best}, indent=2))


if __name__ == "__main__":
    main()
