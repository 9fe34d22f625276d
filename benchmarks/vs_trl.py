"""Fedloom's rounds against the loops that people run today, on the same examples in the same order.

Setting: a Llama of 6.8 M parameters with random weights, Alpaca's text, 20 clients, 4 a round, 10 local steps of 8
examples of up to 256 tokens, LoRA of rank 16 on q_proj and v_proj, loss on response tokens, FedAvg, AdamW.

  fedloom float32, fedloom bfloat16   the recipe's own path: session, plan, runtime, algorithm
  trl              an SFTTrainer for every client and round with gradient checkpointing, as published federated
                   frameworks do; fp32. Text is tokenised beforehand, which spares it work that they do
  peft float32     the best plain loop over PEFT's model: kept between clients, no checkpointing, padding to the
                   batch's longest, fused AdamW, sdpa attention; fp32
  peft bfloat16    the same with a bf16 base, fp32 adapters, autocast: beside the targets, for honesty

Every side is a process of its own; they take turns round by round in a rotating order. Speed is the median second of a
round. After the last round one evaluator (PEFT and transformers, fp32) scores every side's adapter on examples that
nobody trained on.
"""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import safetensors.torch
import torch
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

from fedloom.arms import build_arms
from fedloom.model.packing import Example, pack
from fedloom.recipe import Recipe, load_recipe
from fedloom.session import Session, open_session
from fedloom.training.batches import round_batches
from harness import MIB, Target, Timing, Worker, arguments_of, finish, median_timing, rotated, skip
from setting import alpaca_file, alpaca_recipe, first_records, needed_flops, performed_flops, write_model

NAME = "vs_trl"
OURS = ("fedloom float32", "fedloom bfloat16")
SIDES = (*OURS, "trl", "peft float32", "peft bfloat16")
SPEED_ROUNDS = 5
# (side, rival): how many times as fast it is to be.
SPEED_TARGETS = {
    ("fedloom float32", "trl"): 2.3,
    ("fedloom bfloat16", "trl"): 6.0,
    ("fedloom float32", "peft float32"): 1.6,
    ("fedloom bfloat16", "peft float32"): 4.0,
}
# Largest relative distance of the held-out loss from the rival's.
LOSS_TARGETS = {"fedloom float32": 0.005, "fedloom bfloat16": 0.01}


def main() -> None:
    """Prepare the setting, let the sides take turns, print what it came to."""
    parser = arguments_of(__doc__)
    parser.add_argument("--threads", type=int, choices=(1, 2), help="default: one after another")
    parser.add_argument("--rounds", type=int, help="of the last thread count, the one whose losses are compared")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help="only these")
    arguments = parser.parse_args()
    alpaca = alpaca_file()
    if alpaca is None:
        return skip(NAME, arguments, "no Alpaca text beside the repository (set FEDLOOM_SHARED)")
    if importlib.util.find_spec("trl") is None:
        return skip(NAME, arguments, "TRL is not installed: pip install 'fedloom[bench]'")
    counts = [arguments.threads] if arguments.threads else [2] if arguments.quick else [1, 2]
    rounds = arguments.rounds or (2 if arguments.quick else 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sections: dict[str, dict[str, Any]] = {"federation": {"rounds": rounds}}
        if arguments.quick:
            alpaca = first_records(alpaca, folder / "first.jsonl", 2000)
            sections = {"federation": {"rounds": rounds, "clients_per_round": 2}, "local": {"steps": 1}}
        config = write_model(folder / "model", alpaca)
        recipe = alpaca_recipe(folder / "model", alpaca, **sections)
        (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
        session = open_session(load_recipe(recipe), folder)
        plans = write_plans(session, folder)
        work = [round_work(session, config, plan) for plan in plans]
        speeds, peaks = [], {}
        for threads in counts:
            last = threads == counts[-1]
            speed, adapters = take_rounds(
                folder, arguments.sides, threads, rounds if last else min(rounds, SPEED_ROUNDS)
            )
            peaks[threads] = ask_once(folder, "peak", threads)
            speeds.append({"threads": threads, "sides": speed})
        losses = evaluate(session.recipe, session, {"untuned": folder / "initial.safetensors", **adapters})
    report(arguments, rounds, speeds, peaks, work, losses)
    return None


def write_plans(session: Session, folder: Path) -> list[dict[str, Any]]:
    """Who trains on which examples in every round, as the recipe's own arm decides, and the first adapter.

    Args:
        session: Fedloom's.
        folder: where plans.json and initial.safetensors go.

    Returns:
        For each round its learning rate and its clients with their number of examples and batches.
    """
    recipe, plans = session.recipe, []
    arm = build_arms(session)[0]
    for number in range(1, recipe.federation.rounds + 1):
        plan = arm.plan(number)
        clients = []
        for name in plan.clients:
            count = len(session.data.examples(name, "train"))
            batches = round_batches(count, recipe.local, plan.batch_size, recipe.seed, number, name)
            clients.append({"name": name, "examples": count, "batches": [batch.tolist() for batch in batches]})
        plans.append({"learning_rate": plan.learning_rate, "clients": clients})
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    safetensors.torch.save_file(session.grouped.initial(recipe.seed), folder / "initial.safetensors")
    return plans


def round_work(session: Session, config: LlamaConfig, plan: Mapping[str, Any]) -> dict[str, float]:
    """What a round has to compute: tokens, those with a label, tokens with padding, needed operations."""
    tokens = labels = padded = 0
    flops = performed = 0.0
    for client in plan["clients"]:
        examples = session.data.examples(client["name"], "train")
        for batch in client["batches"]:
            lengths, marked = examples.lengths[batch], int(examples.label_counts[batch].sum())
            tokens, labels = tokens + int(lengths.sum()), labels + marked
            padded += len(batch) * int(lengths.max())
            flops += needed_flops(config, lengths.tolist(), marked)
            packed = pack([[Example(examples.tokens(place), examples.trained(place)) for place in batch]])
            performed += performed_flops(config, packed)
    return {"tokens": tokens, "labels": labels, "padded_tokens": padded, "flops": flops, "performed": performed}


def take_rounds(
    folder: Path, sides: Sequence[str], threads: int, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    """Let the sides train round by round, in turns.

    Args:
        folder: the setting's.
        sides: which.
        threads: CPU threads of each.
        rounds: how many.

    Returns:
        Timings and peak memory of each side, and the files of the adapters they arrived at.
    """
    script = Path(__file__).with_name("sides.py")
    workers = {side: Worker(script, side, str(folder), str(threads), threads=threads) for side in sides}
    for worker in workers.values():
        worker.wait_until_ready()
    timings: dict[str, list[Timing]] = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for side in rotated(sides, number):
            answer = workers[side].ask(round=number)
            timings[side].append(Timing(answer["wall"], answer["cpu"]))
    results, adapters = {}, {}
    for side, worker in workers.items():
        adapters[side] = folder / f"{side} {threads}.safetensors"
        memory = worker.ask(save=str(adapters[side]))["peak_memory"]
        worker.close()
        middle = median_timing(timings[side])
        results[side] = {
            "wall": middle.wall,
            "cpu": middle.cpu,
            "peak_memory": memory,
            "round_walls": [one.wall for one in timings[side]],
        }
    return results, adapters


def ask_once(folder: Path, side: str, threads: int) -> dict[str, Any]:
    """One answer of a worker that then ends."""
    worker = Worker(Path(__file__).with_name("sides.py"), side, str(folder), str(threads), threads=threads)
    worker.wait_until_ready()
    answer = worker.ask()
    worker.close()
    return answer


@torch.no_grad()
def evaluate(recipe: Recipe, session: Session, adapters: Mapping[str, Path]) -> dict[str, float]:
    """Held-out loss of adapters in PEFT's format: teacher-forced, a response token's mean, fp32, by PEFT alone.

    Args:
        recipe: names the base and the adapter's settings.
        session: holds the held-out examples.
        adapters: files.

    Returns:
        Nats, by name.
    """
    import peft

    settings = recipe.model.adapter
    base = AutoModelForCausalLM.from_pretrained(recipe.model.base, dtype=torch.float32)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    wrapped = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)  # type: ignore[arg-type]
    model = peft.get_peft_model(base, wrapped).eval()
    examples = session.data.global_examples()
    assert examples is not None
    losses = {}
    for name, file in adapters.items():
        peft.set_peft_model_state_dict(model, safetensors.torch.load_file(file))
        total, count = 0.0, 0
        for place in range(len(examples)):
            tokens, trained = torch.from_numpy(examples.tokens(place)), examples.trained(place)
            marked = np.flatnonzero(trained[1:])
            logits = model(input_ids=tokens[None]).logits[0, marked].double()
            total += float(torch.nn.functional.cross_entropy(logits, tokens[marked + 1], reduction="sum"))
            count += len(marked)
        losses[name] = total / count
    return losses


def report(
    arguments: Any,
    rounds: int,
    speeds: Sequence[Mapping[str, Any]],
    peaks: Mapping[int, Mapping[str, Mapping[str, float]]],
    work: Sequence[Mapping[str, float]],
    losses: Mapping[str, float],
) -> None:
    """Tables, targets and the JSON file."""
    tokens = median(one["tokens"] for one in work)
    sums = {key: sum(one[key] for one in work) for key in work[0]}
    padding, labelled = 1 - sums["tokens"] / sums["padded_tokens"], sums["labels"] / sums["tokens"]
    tables, targets, rows = [], [], []
    for speed in speeds:
        threads, sides = speed["threads"], speed["sides"]
        measured = len(next(iter(sides.values()))["round_walls"])
        table = Table(
            "side", "s/round", "CPU s", "tokens/s", "vs trl (CPU)", "vs peft fp32 (CPU)", "% of peak (performed)",
            "peak MiB",
            title=f"{threads} thread(s), medians of {measured} rounds",
        )  # fmt: skip
        for name, side in sides.items():
            ours = name.startswith("fedloom")
            needed, performed = (
                median(one[kind] / wall for one, wall in zip(work, side["round_walls"], strict=False))
                for kind in ("flops", "performed" if ours else "flops")
            )
            dtype = "bfloat16" if "bfloat16" in name else "float32"
            peak = peaks[threads][dtype]["peak"]
            row = {
                "side": name,
                "threads": threads,
                **side,
                "tokens_per_second": tokens / side["wall"],
                "share_of_peak": needed / (1e9 * peak),
                "share_of_peak_performed": performed / (1e9 * peak),
                "speedups": {rival: sides[rival]["wall"] / side["wall"] for rival in sides},
                "speedups_cpu": {rival: sides[rival]["cpu"] / side["cpu"] for rival in sides},
            }
            rows.append(row)
            gains = [
                [row[key].get(rival, math.nan) for key in ("speedups", "speedups_cpu")]
                for rival in ("trl", "peft float32")
            ]
            table.add_row(
                name,
                f"{side['wall']:.2f}",
                f"{side['cpu']:.2f}",
                f"{row['tokens_per_second']:.0f}",
                *(f"{wall:.2f} ({cpu:.2f})" for wall, cpu in gains),
                f"{100 * row['share_of_peak']:.0f} ({100 * row['share_of_peak_performed']:.0f})"
                if ours
                else f"{100 * row['share_of_peak']:.0f}",
                f"{side['peak_memory'] / MIB:.0f}",
            )
            targets.extend(
                Target(f"{name} vs {rival}, {threads} thread(s)", row["speedups"][rival], bound)
                for (faster, rival), bound in SPEED_TARGETS.items()
                if faster == name and rival in sides
            )
        tables.append(table)
    loss_table = Table("adapter", "held-out loss", title=f"after {rounds} rounds, nats a response token")
    for name, loss in losses.items():
        loss_table.add_row(name, f"{loss:.4f}")
    tables.append(loss_table)
    for ours, bound in LOSS_TARGETS.items():
        for rival in ("trl", "peft float32"):
            if ours in losses and rival in losses:
                gap = abs(losses[ours] / losses[rival] - 1)
                targets.append(Target(f"relative loss gap of {ours} to {rival}", gap, bound, at_most=True))
    facts = Table("padding in a rival's batches", "tokens with a label", "tokens a round", "peak GFLOP/s fp32, bf16")
    gigaflops = "; ".join(
        f"{threads} thr.: {peak['float32']['peak']:.0f}, {peak['bfloat16']['peak']:.0f}"
        for threads, peak in peaks.items()
    )
    facts.add_row(f"{100 * padding:.0f} %", f"{100 * labelled:.0f} %", f"{tokens:.0f}", gigaflops)
    tables.append(facts)
    finish(
        NAME,
        arguments,
        tables,
        targets=targets,
        settings={"rounds": rounds, "padding_share": padding, "label_share": labelled, "tokens_per_round": tokens},
        matmul_peaks=peaks,
        rows=rows,
        losses=losses,
    )


if __name__ == "__main__":
    main()
