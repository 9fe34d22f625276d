"""`fedloom doctor`: whether this machine is fit, and whether the embedded model computes what it should."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoModelForCausalLM

from fedloom import __version__
from fedloom.errors import UserError
from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import POCKET, load_base, pick_device, pick_dtype, quiet_libraries
from fedloom.model.forward import label_logits
from fedloom.model.packing import Example, pack
from fedloom.recipe.adapter_schema import LoraConfig
from fedloom.recipe.model_schema import ModelConfig
from fedloom.suites.sandbox.level import best_level

EXTRAS = {
    "data": "datasets",
    "quantized": "bitsandbytes",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
PACKAGES = ("torch", "transformers", "peft", "safetensors")
TOLERANCE = 1e-4


def examine() -> None:
    """Print what Fedloom finds here.

    Raises:
        UserError: where the packed model's logits differ from transformers' own.
    """
    quiet_libraries()
    device = pick_device("auto")
    memory = psutil.virtual_memory()
    table = Table("", "found", title=f"Fedloom {__version__}", title_justify="left")
    table.add_row("python", platform.python_version())
    for package in PACKAGES:
        table.add_row(package, importlib.metadata.version(package))
    table.add_row("cpu cores", str(len(os.sched_getaffinity(0))))
    table.add_row("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    table.add_row("device", torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu")
    table.add_row("dtype: auto means", str(pick_dtype("auto", device)).removeprefix("torch."))
    for extra, module in EXTRAS.items():
        here = importlib.util.find_spec(module) is not None
        table.add_row(f"extra {extra}", "installed" if here else escape(f'pip install "fedloom[{extra}]"'))
    table.add_row("sandbox for code tasks", escape(best_level()))
    difference = packed_difference()
    table.add_row("packed = one by one", f"largest difference of a logit {difference:.1e}")
    Console().print(table)
    if not difference < TOLERANCE:
        raise UserError(
            f"packed logits differ from transformers' by {difference:.1e}, expected below {TOLERANCE}",
            hint="are torch and transformers of the pinned versions?",
        )


def packed_difference() -> float:
    """Run two sequences packed end to end, and one by one through transformers' own model.

    Returns:
        The largest absolute difference of a logit in fp32.
    """
    model = load_base(ModelConfig(base="pocket", dtype="float32"), torch.device("cpu"))
    grouped = build_adapter(model, LoraConfig())
    grouped.load([grouped.initial(0)], trainable=False)
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, int(model.config.vocab_size), length) for length in (19, 7)]
    examples = [Example(tokens, np.ones(len(tokens), dtype=bool)) for tokens in sequences]
    reference = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32, use_safetensors=True)
    with torch.no_grad():
        packed = label_logits(model, grouped, pack([examples]))
        single = torch.cat([reference(torch.from_numpy(s)[None]).logits[0, :-1] for s in sequences])
    return float((packed - single).abs().max())
