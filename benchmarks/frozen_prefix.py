"""Adapters on the top quarter of the layers, with the activations below them kept or computed anew, on one core.

The model of setting.py, made twelve layers deep, trains one epoch a round on Alpaca's text with adapters on its three
top layers; examples are met again in every round. Both sides start each round from the same adapter, and their updates
are compared to the last bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from fedloom.aggregation import algorithm
from fedloom.recipe import load_recipe
from fedloom.runtime import RoundPlan
from fedloom.session import Session, open_session
from harness import Target, arguments_of, finish, median_timing, skip, take_turns
from setting import alpaca_file, alpaca_recipe, first_records, write_model

NAME = "frozen_prefix"
LAYERS, ADAPTED = 12, (9, 10, 11)
RECORDS = 160
CLIENTS = 4
REPETITIONS = 5
TARGET = 2.5


def main() -> None:
    """Measure rounds after the first, whose examples have all been met before."""
    arguments = arguments_of(__doc__).parse_args()
    alpaca = alpaca_file()
    if alpaca is None:
        return skip(NAME, arguments, "no Alpaca text beside the repository (set FEDLOOM_SHARED)")
    repetitions = 2 if arguments.quick else REPETITIONS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", alpaca, LAYERS)
        source = first_records(alpaca, folder / "first.jsonl", 60 if arguments.quick else RECORDS)
        for dtype in ("float32", "bfloat16"):
            sides = {side: open_side(folder, source, dtype, size) for side, size in (("anew", 0.0), ("kept", 4.0))}
            rows.append({"dtype": dtype, **measure(sides, repetitions)})
    table = Table(
        "dtype", "first visit s", "anew s (CPU)", "kept s (CPU)", "speedup (CPU)", "differing entries",
        title=f"one round, activations below the adapters kept or not, medians of {repetitions}",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["dtype"],
            f"{row['first']:.2f}",
            f"{row['anew_wall']:.2f} ({row['anew_cpu']:.2f})",
            f"{row['kept_wall']:.2f} ({row['kept_cpu']:.2f})",
            f"{row['speedup']:.2f} ({row['speedup_cpu']:.2f})",
            str(row["differing"]),
        )
    targets = [Target(f"{row['dtype']}: from the second visit", row["speedup"], TARGET) for row in rows]
    assert not any(row["differing"] for row in rows), "kept activations changed an update"
    finish(NAME, arguments, [table], targets=targets, settings={"layers": LAYERS, "adapted": ADAPTED}, rows=rows)
    return None


def open_side(folder: Path, source: Path, dtype: str, gigabytes: float) -> Session:
    """A session whose adapters sit on the top layers only."""
    recipe = alpaca_recipe(
        folder / "model",
        source,
        data={"partition": {"kind": "iid", "clients": CLIENTS}},
        local={"steps": None, "epochs": 1},
        runtime={"threads": 1, "prefix_cache_gb": gigabytes},
    )
    recipe["model"]["adapter"]["layers"] = list(ADAPTED)
    return open_session(load_recipe(recipe, [f"model.dtype={dtype}"]), folder)


def measure(sides: dict[str, Session], repetitions: int) -> dict[str, Any]:
    """Both sides take turns on the same rounds; the first round fills the store and is told apart."""
    updates: dict[str, list[torch.Tensor]] = {side: [] for side in sides}

    def one_round(side: str, session: Session) -> Callable[[], None]:
        adapter = session.grouped.initial(0)

        def train() -> None:
            number = len(updates[side]) // CLIENTS + 1
            plan = RoundPlan("federated", number, tuple(session.data.clients), 3e-3, session.recipe.local.batch_size)
            for update in session.runtime.train(plan, adapter, algorithm("fedavg")):
                updates[side].append(session.grouped.flatten(update.delta))

        return train

    timings = take_turns({side: one_round(side, session) for side, session in sides.items()}, repetitions + 1, 0)
    medians = {side: median_timing(times[1:]) for side, times in timings.items()}
    pairs = zip(updates["anew"], updates["kept"], strict=True)
    return {
        "first": timings["kept"][0].wall,
        **{f"{side}_{kind}": getattr(middle, kind) for side, middle in medians.items() for kind in ("wall", "cpu")},
        "speedup": medians["anew"].wall / medians["kept"].wall,
        "speedup_cpu": medians["anew"].cpu / medians["kept"].cpu,
        "differing": sum(int((anew != kept).sum()) for anew, kept in pairs),
    }


if __name__ == "__main__":
    main()
