"""Cohorts on a GPU: tokens a second, share of the matmul peak, and memory, for 1, 8 and 32 clients in one pass.

A Llama of about 1.1 billion parameters in bf16 with random weights (made here, nothing is downloaded), LoRA of rank 16
on q_proj and v_proj, random tokens in sequences of 64 to 512, the last half of each labelled, 4 sequences a client and
step. The clients of K = 1 and K = 8 that come one after another are the same 32. Without a CUDA device it says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedloom.data.shards import ExampleSet
from fedloom.model.base import quiet_libraries
from fedloom.model.grouped_adapter import Adapter
from fedloom.recipe import Recipe, load_recipe
from fedloom.session import open_model
from fedloom.training.client import ClientWork, LocalTraining
from fedloom.training.cohort import train_cohort
from fedloom.training.optimizers import local_optimizer
from harness import MIB, arguments_of, finish, matmul_peak, median_timing, skip, take_turns
from setting import END, RANK, needed_flops, product_shapes

NAME = "gpu"
CLIENTS = 32
COHORTS = (1, 8, 32)
BATCH = 4
STEPS = 4
REPETITIONS = 5
LENGTHS = (64, 513)
CONFIG = LlamaConfig(
    vocab_size=32_000,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    max_position_embeddings=2048,
)
SMALLER = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16}


def main() -> None:
    """Train the same clients in cohorts of every size, in turns."""
    arguments = arguments_of(__doc__).parse_args()
    if not torch.cuda.is_available():
        return skip(NAME, arguments, "no CUDA device here")
    config = LlamaConfig(**{**CONFIG.to_dict(), **SMALLER}) if arguments.quick else CONFIG
    steps, repetitions = (1, 2) if arguments.quick else (STEPS, REPETITIONS)
    with tempfile.TemporaryDirectory() as name:
        recipe = write_base(Path(name), config, "cuda")
        rows, parameters = measure(recipe, config, "cuda", steps, repetitions)
    shapes = [*product_shapes(config), (config.hidden_size, config.vocab_size)]
    peak = matmul_peak(shapes, torch.bfloat16, rows=(4096, 16384), device="cuda")
    table = Table(
        "K", "s/step of 32 clients", "CPU s", "tokens/s", "% of peak", "peak MiB",
        title=f"{parameters / 1e6:.0f} M parameters, bf16; matmul peak {peak['peak'] / 1e3:.0f} TFLOP/s",
    )  # fmt: skip
    for row in rows:
        if "wall" not in row:
            table.add_row(str(row["cohort"]), "does not fit into memory", "", "", "", "")
            continue
        row["share_of_peak"] = row["flops_per_second"] / (1e9 * peak["peak"])
        table.add_row(
            str(row["cohort"]),
            f"{row['wall'] / steps:.3f}",
            f"{row['cpu'] / steps:.3f}",
            f"{row['tokens_per_second']:.0f}",
            f"{100 * row['share_of_peak']:.0f}",
            f"{row['peak_memory'] / MIB:.0f}",
        )
    settings = {"clients": CLIENTS, "batch": BATCH, "steps": steps, "parameters": parameters}
    finish(NAME, arguments, [table], settings=settings, matmul_peak=peak, rows=rows)
    return None


def write_base(folder: Path, config: LlamaConfig, device: str) -> Recipe:
    """Write the model with a tokenizer that nobody calls, and the recipe that opens it."""
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({END: 0}, END)), eos_token=END).save_pretrained(
        folder
    )
    quiet_libraries()
    torch.manual_seed(0)
    with torch.device(device):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    adapter = {"rank": RANK, "alpha": 2 * RANK, "targets": ["q_proj", "v_proj"]}
    model = {"base": str(folder), "dtype": "bfloat16", "adapter": adapter}
    return load_recipe({"model": model, "local": {"learning_rate": 1e-4}, "runtime": {"device": device}})


def random_examples(vocabulary: int, count: int) -> ExampleSet:
    """Sequences of random tokens, their last halves labelled."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(*LENGTHS, count).tolist()
    tokens = [generator.integers(vocabulary, size=length).tolist() for length in lengths]
    return ExampleSet.from_examples(tokens, [[place >= length // 2 for place in range(length)] for length in lengths])


def measure(
    recipe: Recipe, config: LlamaConfig, device: str, steps: int, repetitions: int
) -> tuple[list[dict[str, Any]], int]:
    """Time every cohort size on the same clients; returns a row for each, and the base's parameters."""
    model, lora = open_model(recipe)
    examples = random_examples(config.vocab_size, CLIENTS * BATCH * steps)
    batches = np.arange(CLIENTS * BATCH * steps).reshape(CLIENTS, steps, BATCH)
    start: Adapter = lora.initial(0)
    work = [ClientWork(str(client), examples, list(batches[client]), start) for client in range(CLIENTS)]
    local = recipe.local
    training = LocalTraining(local_optimizer(local), local.learning_rate, local.max_gradient_norm, 1)

    def trainer(cohort: int) -> Callable[[], None]:
        def train() -> None:
            for first in range(0, CLIENTS, cohort):
                some: Sequence[ClientWork] = work[first : first + cohort]
                train_cohort(model, lora, some, training)
            if device != "cpu":
                torch.cuda.synchronize()

        return train

    memory: dict[int, int] = {}
    for cohort in COHORTS:
        try:
            torch.cuda.reset_peak_memory_stats()
            trainer(cohort)()
            memory[cohort] = torch.cuda.max_memory_allocated()
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    timings = take_turns({str(cohort): trainer(cohort) for cohort in memory}, repetitions)
    tokens = int(examples.lengths.sum())
    flops = needed_flops(config, examples.lengths.tolist(), int(examples.label_counts.sum()))
    rows: list[dict[str, Any]] = []
    for cohort in COHORTS:
        row: dict[str, Any] = {"cohort": cohort}
        if cohort in memory:
            middle = median_timing(timings[str(cohort)])
            row |= {"wall": middle.wall, "cpu": middle.cpu, "peak_memory": memory[cohort]}
            row |= {"tokens_per_second": tokens / middle.wall, "flops_per_second": flops / middle.wall}
        rows.append(row)
    return rows, model.num_parameters()


if __name__ == "__main__":
    main()
