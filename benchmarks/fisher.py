"""Traces of the Fisher information, example by example: Fedloom's against a plain loop over PEFT's model.

The loop is what one would write by hand: one example, one pass forwards and one backwards by torch.autograd, squares
summed, the model kept between examples. 512 texts of 12 to 36 tokens, as labelled sentences have, the last fifth of
each the response; the embedded decoder with LoRA of rank 8 on q_proj and v_proj, one thread. Both in fp32 and in bf16
(the loop's adapter in fp32 with PEFT's casts). Traces of both sides in fp32 must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from rich.table import Table
from transformers import AutoModelForCausalLM

from fedloom.data.shards import ExampleSet
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.grouped_adapter import Adapter
from fedloom.recipe.adapter_schema import LoraConfig as RecipeLora
from fedloom.recipe.model_schema import ModelConfig
from fedloom.runtime.process import keep_freed_memory
from fedloom.training.fisher import fisher_traces
from harness import Target, arguments_of, finish, median_timing, take_turns

NAME = "fisher"
EXAMPLES, REPETITIONS = 512, 5
RANK, SHORTEST, LONGEST = 8, 12, 36
SPEED_TARGET, AGREEMENT_TARGET = 5.0, 1e-3


def texts(count: int) -> ExampleSet:
    """Random tokens in lengths of labelled sentences."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(SHORTEST, LONGEST + 1, count).tolist()
    tokens = [draw.integers(3, 2000, length).tolist() for length in lengths]
    trained = [[False] * (length - length // 5) + [True] * (length // 5) for length in lengths]
    return ExampleSet.from_examples(tokens, trained)


def fedloom_side(dtype: Any, examples: ExampleSet) -> tuple[Callable[[], np.ndarray], Adapter]:
    """Fedloom's traces, and the adapter that both sides use: some way from a fresh one."""
    config = ModelConfig(base="pocket", dtype=dtype, adapter=RecipeLora(rank=RANK))
    model = load_base(config, torch.device("cpu"))
    grouped = build_adapter(model, config.adapter)
    use_own_layers(model, grouped)
    generator = torch.Generator().manual_seed(1)
    adapter = {
        name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in grouped.initial(0).items()
    }
    return lambda: fisher_traces(model, grouped, adapter, examples, range(len(examples))), adapter


def loop_side(dtype: str, examples: ExampleSet, adapter: Adapter) -> Callable[[], np.ndarray]:
    """The plain loop."""
    base = AutoModelForCausalLM.from_pretrained(POCKET, dtype=getattr(torch, dtype))
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    set_peft_model_state_dict(model, adapter)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def work() -> np.ndarray:
        traces = np.zeros(len(examples))
        for place in range(len(examples)):
            tokens, labels = torch.from_numpy(examples.tokens(place)), torch.from_numpy(examples.trained(place))
            logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1][labels[1:]].float()
            loss = torch.nn.functional.cross_entropy(logits, tokens[1:][labels[1:]])
            traces[place] = sum(float(g.float().square().sum()) for g in torch.autograd.grad(loss, trained))
        return traces

    return work


def main() -> None:
    """Measure both sides in both formats and print them side by side."""
    arguments = arguments_of(__doc__).parse_args()
    count, repetitions = (64, 2) if arguments.quick else (EXAMPLES, REPETITIONS)
    torch.set_num_threads(1)
    keep_freed_memory()
    examples = texts(count)
    table = Table("dtype", "loop: s (CPU s)", "fedloom: s (CPU s)", "times as fast", "largest difference")
    rows, targets = [], []
    for dtype in ("float32", "bfloat16"):
        ours, adapter = fedloom_side(dtype, examples)
        plain = loop_side(dtype, examples, adapter)
        difference = float(np.abs(ours() / plain() - 1).max())
        timings = take_turns({"loop": plain, "fedloom": ours}, repetitions)
        loop, fedloom = (median_timing(timings[side]) for side in ("loop", "fedloom"))
        ratio = loop.cpu / fedloom.cpu
        rows.append({"dtype": dtype, "loop": vars(loop), "fedloom": vars(fedloom), "ratio": ratio, "diff": difference})
        sides = [f"{one.wall:.2f} ({one.cpu:.2f})" for one in (loop, fedloom)]
        table.add_row(dtype, *sides, f"{ratio:.2f}", f"{difference:.1e}")
        targets.append(Target(f"{dtype}: CPU seconds of the loop over Fedloom's", ratio, SPEED_TARGET))
    targets.append(Target("float32: largest difference", rows[0]["diff"], AGREEMENT_TARGET, at_most=True))
    finish(NAME, arguments, [table], targets=targets, settings={"examples": count, "rank": RANK}, rows=rows)


if __name__ == "__main__":
    main()
