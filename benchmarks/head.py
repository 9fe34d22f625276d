"""The loss over large vocabularies: Fedloom's against the naive one, in peak memory and time.

Both go from hidden states at labelled positions ([2,048, 768]) over a frozen output head to each label's loss, and back
to the hidden states. Naive means fp32 logits of all positions and the whole vocabulary, then torch's cross_entropy.
Vocabularies of 50,257 and 151,936, fp32 and bf16. Every variant is a fresh process; memory is its resident high-water
mark beyond hidden states, head and labels, which both hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from fedloom.runtime.process import keep_freed_memory
from harness import (
    MIB,
    Target,
    Worker,
    arguments_of,
    current_memory,
    finish,
    peak_memory,
    reset_peak_memory,
    rotated,
    serve,
    timed,
)

NAME = "head"
SIDES = ("naive", "fedloom")
HIDDEN = 768
LABELS = 2048
VOCABULARIES = (50_257, 151_936)
REPETITIONS = 5
# At the smaller vocabulary: share of the naive peak, and of the naive time.
MEMORY_TARGET, TIME_TARGET = 0.25, 1.0


def naive_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Each label's loss from logits of the whole vocabulary in fp32."""
    logits = torch.nn.functional.linear(hidden, weight).float()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def losses_of(side: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A side's loss; Fedloom and what it imports are loaded here, before memory is counted."""
    if side == "naive":
        return naive_losses
    from fedloom.model.head_loss import label_cross_entropy

    return label_cross_entropy


def work(side: str, dtype: str, vocabulary: int, labels: int) -> None:
    """A process that computes loss and gradient once for every request."""
    keep_freed_memory()
    losses_at = losses_of(side)
    generator = torch.Generator().manual_seed(0)
    head = torch.empty(vocabulary, HIDDEN, dtype=getattr(torch, dtype)).normal_(0, 0.02, generator=generator)
    hidden = torch.empty(labels, HIDDEN, dtype=head.dtype).normal_(generator=generator).requires_grad_()
    targets = torch.randint(vocabulary, (labels,), generator=generator)
    before = current_memory()
    reset_peak_memory()

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        sums = {}

        def once() -> None:
            losses = losses_at(hidden, head, targets)
            losses.mean().backward()
            sums["loss"] = float(losses.detach().double().mean())

        hidden.grad = None
        timing = timed(once)
        assert hidden.grad is not None
        memory = peak_memory() - before
        gradient = float(hidden.grad.double().norm())
        return {"wall": timing.wall, "cpu": timing.cpu, "memory": memory, "gradient": gradient, **sums}

    serve(answer)


def measure(dtype: str, vocabulary: int, labels: int, repetitions: int) -> list[dict[str, Any]]:
    """Both sides at one vocabulary and format, in turns, after one call each that is not timed."""
    threads = torch.get_num_threads()
    options = (dtype, str(vocabulary), str(labels))
    workers = {side: Worker(Path(__file__), "worker", side, *options, threads=threads) for side in SIDES}
    for worker in workers.values():
        worker.wait_until_ready()
    answers: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(repetitions + 1):
        for side in rotated(list(SIDES), turn):
            answers[side].append(workers[side].ask())
    for worker in workers.values():
        worker.close()
    return [
        {
            "side": side,
            "dtype": dtype,
            "vocabulary": vocabulary,
            "labels": labels,
            "wall": median(one["wall"] for one in replies[1:]),
            "cpu": median(one["cpu"] for one in replies[1:]),
            "memory": replies[-1]["memory"],
            "loss": replies[-1]["loss"],
            "gradient_norm": replies[-1]["gradient"],
        }
        for side, replies in answers.items()
    ]


def main() -> None:
    """Measure both sides everywhere and print them side by side."""
    if sys.argv[1:2] == ["worker"]:
        return work(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    arguments = arguments_of(__doc__).parse_args()
    vocabularies: Sequence[int] = VOCABULARIES[:1] if arguments.quick else VOCABULARIES
    labels, repetitions = (512, 2) if arguments.quick else (LABELS, REPETITIONS)
    table = Table(
        "vocabulary", "dtype", "side", "ms", "CPU ms", "peak MiB", "of naive: time", "memory", "loss",
        title=f"{labels} labels, hidden {HIDDEN}, forward and backward, medians of {repetitions}",
    )  # fmt: skip
    rows, targets = [], []
    for vocabulary in vocabularies:
        for dtype in ("float32", "bfloat16"):
            pair = measure(dtype, vocabulary, labels, repetitions)
            naive, ours = pair
            rows.extend(pair)
            time, memory = ours["wall"] / naive["wall"], ours["memory"] / naive["memory"]
            for row in pair:
                shares = (f"{time:.2f}", f"{memory:.2f}") if row is ours else ("", "")
                table.add_row(
                    f"{vocabulary:,}",
                    dtype,
                    row["side"],
                    f"{1e3 * row['wall']:.0f}",
                    f"{1e3 * row['cpu']:.0f}",
                    f"{row['memory'] / MIB:.0f}",
                    *shares,
                    f"{row['loss']:.5f}",
                )
            if vocabulary == VOCABULARIES[0]:
                targets.append(Target(f"{dtype}: share of the naive peak memory", memory, MEMORY_TARGET, at_most=True))
                targets.append(Target(f"{dtype}: share of the naive time", time, TIME_TARGET, at_most=True))
    settings = {"hidden": HIDDEN, "labels": labels, "threads": torch.get_num_threads(), "repetitions": repetitions}
    finish(NAME, arguments, [table], targets=targets, settings=settings, rows=rows)
    return None


if __name__ == "__main__":
    main()
