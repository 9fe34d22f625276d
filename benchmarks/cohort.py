"""K clients in one pass over the base against the same K clients one after another, on one core.

One after another is `runtime.cohort: 1`, together is `runtime.cohort: K`; everything else of the recipe's path is the
same, and so is every client's result. Beside them, for up to 32 examples a step, the same clients one after another
through the best plain loop over PEFT's model (`sides.PlainPeft`): what users have today. One local step on Alpaca's
text, batches of 1, 2 and 8, for the 6.8 M model of setting.py (fp32 and bf16) and for stories260K (fp32). K = 1
compares a thing with itself: it shows the noise. 64 clients with batches of 8 are left out: 512 examples are more than
any pass that `cohort: auto` forms.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.table import Table

from fedloom.aggregation import algorithm
from fedloom.recipe import load_recipe
from fedloom.runtime import RoundPlan
from fedloom.session import Session, open_session
from fedloom.training.batches import round_batches
from harness import Target, arguments_of, finish, median_timing, shared_folder, skip, take_turns
from setting import STORIES, alpaca_file, alpaca_recipe, first_records, write_model
from sides import PlainPeft

NAME = "cohort"
COHORTS = (1, 4, 16, 64)
BATCHES = (1, 2, 8)
MOST_EXAMPLES = 128
RIVAL_EXAMPLES = 32
STEPS = 1
REPETITIONS = 5
# (model, dtype): how many times as fast 16 clients with batches of 1 are to be in one pass.
TARGETS = {("6.8 M", "float32"): 1.4, ("6.8 M", "bfloat16"): 2.0, ("stories260K", "float32"): 4.0}
WORST = 0.95


def main() -> None:
    """Measure every point of the grid and print how much faster one pass is."""
    arguments = arguments_of(__doc__).parse_args()
    alpaca, stories = alpaca_file(), shared_folder() / STORIES
    if alpaca is None:
        return skip(NAME, arguments, "no Alpaca text beside the repository (set FEDLOOM_SHARED)")
    cohorts = (1, 4) if arguments.quick else COHORTS
    batches = (1,) if arguments.quick else BATCHES
    repetitions = 2 if arguments.quick else REPETITIONS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.quick:
            alpaca = first_records(alpaca, folder / "first.jsonl", 2000)
        write_model(folder / "model", alpaca)
        for model, dtype in TARGETS:
            base = folder / "model" if model == "6.8 M" else stories
            sessions = {cohort: open_cohort(folder, base, alpaca, dtype, cohort) for cohort in {1, *cohorts}}
            rival = open_rival(folder, sessions[1], dtype)
            for batch in batches:
                for cohort in cohorts:
                    if cohort * batch <= MOST_EXAMPLES:
                        few = cohort * batch <= RIVAL_EXAMPLES
                        row = measure(sessions[1], sessions[cohort], cohort, batch, repetitions, rival if few else None)
                        rows.append({"model": model, "dtype": dtype, **row})
    report(arguments, rows, repetitions)
    return None


def open_cohort(folder: Path, base: Path, source: Path, dtype: str, cohort: int) -> Session:
    """A session that trains so many clients in one pass, on one core."""
    recipe = alpaca_recipe(
        base,
        source,
        data={"partition": {"kind": "iid", "clients": max(COHORTS)}},
        local={"steps": STEPS},
        runtime={"cohort": cohort, "threads": 1},
    )
    return open_session(load_recipe(recipe, [f"model.dtype={dtype}"]), folder)


def open_rival(folder: Path, session: Session, dtype: str) -> PlainPeft:
    """PEFT's model over the same base, examples and first adapter."""
    (folder / "recipe.json").write_text(session.recipe.model_dump_json(exclude_unset=True), encoding="utf-8")
    (folder / "plans.json").write_text("[]", encoding="utf-8")
    safetensors.torch.save_file(session.grouped.initial(0), folder / "initial.safetensors")
    return PlainPeft(folder, getattr(torch, dtype))


def measure(
    alone: Session, together: Session, cohort: int, batch: int, repetitions: int, rival: PlainPeft | None
) -> dict[str, Any]:
    """One point of the grid: the ways take turns on the same clients and examples."""
    clients = tuple(alone.data.clients[:cohort])
    rate = alone.recipe.local.learning_rate
    plan = RoundPlan("federated", 1, clients, rate, batch)
    adapter = alone.grouped.initial(0)
    tokens = 0

    def train(session: Session) -> Callable[[], None]:
        def one_round() -> None:
            nonlocal tokens
            updates = session.runtime.train(plan, adapter, algorithm("fedavg"))
            tokens = sum(update.metrics["tokens"] for update in updates)

        return one_round

    def train_rival() -> None:
        assert rival is not None
        torch.set_num_threads(1)
        for client in clients:
            rival.peft.set_peft_model_state_dict(rival.model, rival.adapter)
            count = len(rival.data.examples(client, "train"))
            batches = round_batches(count, alone.recipe.local, batch, alone.recipe.seed, 1, client)
            rival.train_client(client, [places.tolist() for places in batches], rate)

    sides = {"alone": train(alone), "together": train(together)}
    if rival is not None:
        sides["peft"] = train_rival
    timings = take_turns(sides, repetitions)
    medians = {side: median_timing(times) for side, times in timings.items()}
    return {
        "batch": batch,
        "cohort": cohort,
        "tokens": tokens,
        **{f"{side}_{kind}": getattr(middle, kind) for side, middle in medians.items() for kind in ("wall", "cpu")},
        "speedup": medians["alone"].wall / medians["together"].wall,
        "speedup_cpu": medians["alone"].cpu / medians["together"].cpu,
        "speedup_peft": medians["peft"].wall / medians["together"].wall if rival is not None else None,
    }


def report(arguments: Any, rows: list[dict[str, Any]], repetitions: int) -> None:
    """The grid and the targets."""
    table = Table(
        "model", "dtype", "batch", "K", "tokens", "alone s (CPU)", "together s (CPU)", "tokens/s", "speedup (CPU)",
        "vs peft",
        title=f"one pass against one after another, medians of {repetitions}",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["model"],
            row["dtype"],
            str(row["batch"]),
            str(row["cohort"]),
            str(row["tokens"]),
            f"{row['alone_wall']:.3f} ({row['alone_cpu']:.3f})",
            f"{row['together_wall']:.3f} ({row['together_cpu']:.3f})",
            f"{row['tokens'] / row['together_wall']:.0f}",
            f"{row['speedup']:.2f} ({row['speedup_cpu']:.2f})",
            f"{row['speedup_peft']:.2f}" if row["speedup_peft"] else "",
        )
    targets = [
        Target(f"{row['model']} {row['dtype']}, batch 1, K = 16", row["speedup"], TARGETS[row["model"], row["dtype"]])
        for row in rows
        if row["batch"] == 1 and row["cohort"] == 16
    ]
    # One client is a cohort of one: both sides run the same code, and their ratio is the noise.
    slowest = min((row for row in rows if row["cohort"] > 1), key=lambda row: float(row["speedup"]))
    where = f"{slowest['model']} {slowest['dtype']}, batch {slowest['batch']}, K = {slowest['cohort']}"
    targets.append(Target(f"the worst point ({where})", slowest["speedup"], WORST))
    finish(NAME, arguments, [table], targets=targets, settings={"steps": STEPS, "threads": 1}, rows=rows)


if __name__ == "__main__":
    main()
