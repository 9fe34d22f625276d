"""Aggregating LoRA: how far each rule is from the mean of clients' products, and what FlexLoRA's SVD costs.

The error table: ten clients' factors of one layer, from a common adapter by a step that all share and a step of their
own, equally large; ranks equal, then unequal. The error is ||realised - M|| / ||M||, M = sum_k p_k s B_k A_k, computed
from the factors. Where clients keep a factor to themselves (fedsa_lora), realised means the mean of their models.

FlexLoRA: one step on a layer of 4096 x 4096 with ten clients of ranks 8 to 64, through QRs of the stacked factors,
against forming the product and decomposing it. Each in a fresh process; memory is its resident high-water mark beyond
the updates, which both hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from fedloom.aggregation import Update, algorithm
from fedloom.aggregation.lora.factors import Pair, pair_of, product_norm, truncated, weighted_sum
from harness import (
    MIB,
    Target,
    Worker,
    arguments_of,
    current_memory,
    finish,
    peak_memory,
    reset_peak_memory,
    serve,
    timed,
)

NAME = "lora_aggregation"
SIDE = 4096
EQUAL, UNEQUAL = [16] * 10, [8, 8, 16, 16, 24, 32, 32, 48, 64, 64]
SCALE = 2.0
LAYER = "layer"
A, B, R = (f"{LAYER}.lora_{factor}.weight" for factor in "ABR")
REPETITIONS = 5
BOTH = (A, B)
# A name, its options, the factors that clients train, and those they send.
RULES: list[tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
    ("fedavg", {}, BOTH, BOTH),
    ("ffa_lora", {}, (B,), (B,)),
    ("rolora", {}, (B,), (B,)),
    ("fedsa_lora", {}, BOTH, (A,)),
    ("flora", {"scale": SCALE, "seed": 0}, BOTH, BOTH),
    ("flexlora", {}, BOTH, BOTH),
    ("hetlora", {}, BOTH, BOTH),
    ("fedex_lora", {"scale": SCALE, "weighting": "examples"}, BOTH, BOTH),
    ("fedex_lora", {"scale": SCALE, "weighting": "examples", "residual_rank": 16}, BOTH, BOTH),
    ("fed_sb", {}, (R,), (R,)),
]


def start(side: int, rank: int) -> dict[str, Tensor]:
    """A global adapter as after some rounds, with Fed-SB's square matrix."""
    draw = torch.Generator().manual_seed(0)
    bound = side**-0.5
    return {
        A: torch.empty(rank, side).uniform_(-bound, bound, generator=draw),
        B: torch.empty(side, rank).uniform_(-bound, bound, generator=draw),
        R: torch.empty(rank, rank).normal_(generator=draw),
    }


def steps(x: dict[str, Tensor], ranks: Sequence[int]) -> list[dict[str, Tensor]]:
    """What each client adds to what it was sent: half a step that all share, half one of its own."""
    draw = torch.Generator().manual_seed(1)
    size = {name: value.std() for name, value in x.items()}
    shared = {name: torch.empty(value.shape).normal_(generator=draw) * size[name] for name, value in x.items()}
    return [
        {
            name: value + torch.empty(value.shape).normal_(generator=draw) * size[name]
            for name, value in truncated(shared, rank).items()
        }
        for rank in ranks
    ]


def relative_error(name: str, options: dict[str, Any], trained: Iterable[str], sent: Iterable[str],
                   ranks: Sequence[int], side: int) -> float | None:  # fmt: skip
    """One round of a rule, and how far it is from the mean of products; None where it can't take such ranks."""
    rule = algorithm(name, **options)
    if not rule.mixed_ranks and len(set(ranks)) > 1:
        return None
    x = start(side, max(ranks))
    if name != "fed_sb":
        del x[R]
    sizes = [1 + k % 4 for k in range(len(ranks))]
    p = [size / sum(sizes) for size in sizes]
    deltas = steps(x, ranks)
    ends = []
    for rank, delta in zip(ranks, deltas, strict=True):
        received = truncated(x, rank)
        ends.append({end: value + delta[end] if end in trained else value for end, value in received.items()})
    updates = [Update(str(k), {end: deltas[k][end] for end in sent}, sizes[k]) for k in range(len(ranks))]
    result, state = rule.step(x, rule.init(x), updates)
    clients = [effective(end) for end in ends]
    mean = weighted_sum(clients, [SCALE * weight for weight in p])
    if rule.shared == "both":
        realised = weighted_sum([effective(result)], [SCALE])
    else:
        own = [Pair(effective(result).a, client.b) for client in clients]
        realised = weighted_sum(own, [SCALE * weight for weight in p])
    parts = [realised, mean, *([pair_of(state, f"base/{LAYER}")] if rule.changes_base else [])]
    return product_norm(weighted_sum(parts, [1.0, -1.0, 1.0][: len(parts)])) / product_norm(mean)


def effective(adapter: dict[str, Tensor]) -> Pair:
    """The factors of a layer's change, fp64, with Fed-SB's R in B."""
    pair = pair_of(adapter, LAYER)
    return Pair(pair.a, pair.b @ adapter[R].double()) if R in adapter else pair


def error_table(side: int) -> tuple[Table, list[dict[str, Any]]]:
    """Every rule's error, ranks equal and unequal."""
    table = Table(
        "rule", f"ranks {EQUAL[0]}", f"ranks {min(UNEQUAL)} to {max(UNEQUAL)}", title="error to the mean product"
    )
    rows = []
    for name, options, trained, sent in RULES:
        label = f"{name}, residual of rank {options['residual_rank']}" if "residual_rank" in options else name
        errors = [relative_error(name, options, trained, sent, ranks, side) for ranks in (EQUAL, UNEQUAL)]
        table.add_row(label, *("equal ranks only" if error is None else f"{error:.2g}" for error in errors))
        rows.append({"rule": label, "equal": errors[0], "unequal": errors[1]})
    return table, rows


def by_factors(x: dict[str, Tensor], updates: list[Update]) -> dict[str, Tensor]:
    """FlexLoRA as Fedloom has it."""
    return algorithm("flexlora").step(x, {}, updates)[0]


def by_product(x: dict[str, Tensor], updates: list[Update]) -> dict[str, Tensor]:
    """FlexLoRA as its equation reads, in fp32."""
    mean = torch.zeros(x[B].shape[0], x[A].shape[1])
    for update in updates:
        received = truncated(x, update.delta[A].shape[0])
        mean.addmm_(received[B] + update.delta[B], received[A] + update.delta[A], alpha=1 / len(updates))
    u, s, vh = torch.linalg.svd(mean, full_matrices=False)
    rank = x[A].shape[0]
    return {A: vh[:rank].clone(), B: u[:, :rank] * s[:rank]}


SIDES: dict[str, Callable[[dict[str, Tensor], list[Update]], dict[str, Tensor]]] = {
    "factors": by_factors,
    "dense product": by_product,
}


def work(name: str, side: int) -> None:
    """A process that takes FlexLoRA's step once for every request."""

    def problem(size: int) -> tuple[dict[str, Tensor], list[Update]]:
        x = start(size, max(UNEQUAL))
        del x[R]
        return x, [Update(str(k), delta, 1) for k, delta in enumerate(steps(x, UNEQUAL))]

    # What libraries load and allocate at the first call is no part of the step.
    SIDES[name](*problem(128))
    x, updates = problem(side)
    before = current_memory()
    reset_peak_memory()

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        found = {}

        def once() -> None:
            found.update(SIDES[name](x, updates))

        timing = timed(once)
        memory = peak_memory() - before
        return {"wall": timing.wall, "cpu": timing.cpu, "memory": memory, "norm": product_norm(pair_of(found, LAYER))}

    serve(answer)


def measure(name: str, side: int, repetitions: int) -> dict[str, Any]:
    """Medians of one side's seconds, and its peak at the first step."""
    worker = Worker(Path(__file__), "worker", name, str(side), threads=torch.get_num_threads())
    worker.wait_until_ready()
    answers = [worker.ask() for _ in range(repetitions)]
    worker.close()
    return {
        "side": name,
        **{key: median(one[key] for one in answers) for key in ("wall", "cpu", "norm")},
        "memory": answers[0]["memory"],
    }


def main() -> None:
    """Print the errors, then FlexLoRA's cost."""
    if sys.argv[1:2] == ["worker"]:
        return work(sys.argv[2], int(sys.argv[3]))
    arguments = arguments_of(__doc__).parse_args()
    side = 512 if arguments.quick else SIDE
    errors, rows = error_table(side)
    cost = Table("FlexLoRA by", "s", "CPU s", "peak MiB", "norm", title=f"{side} x {side}")
    sides = [measure("factors", side, REPETITIONS), measure("dense product", side, 1)]
    for row in sides:
        cost.add_row(
            row["side"], f"{row['wall']:.2f}", f"{row['cpu']:.2f}", f"{row['memory'] / MIB:.0f}", f"{row['norm']:.6f}"
        )
    product = 4 * side * side / MIB
    claim = f"peak MiB of FlexLoRA's step (the product alone, fp32: {product:.0f}, fp64: {2 * product:.0f})"
    targets = [Target(claim, sides[0]["memory"] / MIB, product, at_most=True)]
    settings = {"side": side, "equal": EQUAL, "unequal": UNEQUAL, "threads": torch.get_num_threads()}
    finish(NAME, arguments, [errors, cost], targets=targets, settings=settings, errors=rows, flexlora=sides)
    return None


if __name__ == "__main__":
    main()
