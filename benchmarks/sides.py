"""The sides of benchmarks/vs_trl.py, each a process of its own: `sides.py SIDE FOLDER THREADS` answers round by round.

All sides train the same clients on the same examples in the same order; see the folder's plans.json.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fedloom.model.base import quiet_libraries
from harness import matmul_peak, peak_memory, serve, timed
from setting import product_shapes

Adapter = dict[str, Tensor]


class Side(ABC):
    """One way to train a round.

    Args:
        folder: holds recipe.json, plans.json, initial.safetensors and the tokenised data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        self.plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
        self.adapter: Adapter = safetensors.torch.load_file(folder / "initial.safetensors")

    @abstractmethod
    def train_round(self, number: int) -> None:
        """Bring `adapter` one round forward."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a round, or write the adapter to a file."""
        if "save" in request:
            safetensors.torch.save_file(self.adapter, request["save"])
            return {"peak_memory": peak_memory()}
        timing = timed(lambda: self.train_round(request["round"]))
        return {"wall": timing.wall, "cpu": timing.cpu}


class Fedloom(Side):
    """What `fedloom run` does in a round: plan, runtime, algorithm."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        super().__init__(folder)
        from fedloom.arms import build_arms
        from fedloom.recipe import load_recipe
        from fedloom.session import open_session

        overrides = [f"model.dtype={dtype}", f"runtime.threads={threads}"]
        self.session = open_session(load_recipe(self.recipe, overrides), folder)
        self.arm = build_arms(self.session)[0]
        self.state = self.arm.algorithm.init(self.adapter)

    def train_round(self, number: int) -> None:
        """One turn of the loop in fedloom/federation.py."""
        updates = self.session.runtime.train(self.arm.plan(number, {}), self.adapter, self.arm.algorithm)
        self.adapter, self.state = self.arm.algorithm.step(self.adapter, self.state, updates)


class PeftSide(Side):
    """What the rivals share: PEFT's model, the tokenised examples, the mean of the clients' adapters."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(folder)
        import peft
        from transformers import AutoModelForCausalLM

        from fedloom.recipe import load_recipe
        from fedloom.session import prepare_data

        self.peft = peft
        settings = self.recipe["model"]["adapter"]
        base = AutoModelForCausalLM.from_pretrained(
            self.recipe["model"]["base"], dtype=dtype, attn_implementation="sdpa"
        )
        self.padding = int(base.config.pad_token_id)
        self.model = peft.get_peft_model(
            base,
            peft.LoraConfig(
                r=settings["rank"],
                lora_alpha=settings["alpha"],
                target_modules=settings["targets"],
                lora_dropout=0.0,
                task_type="CAUSAL_LM",
            ),
        )
        self.data, _ = prepare_data(load_recipe(self.recipe), folder / "data")

    @abstractmethod
    def train_client(self, client: str, batches: list[list[int]], rate: float) -> None:
        """Train the model's adapter on one client's batches."""

    def train_round(self, number: int) -> None:
        """Client after client over the one model, then the mean, weighted by examples."""
        plan = self.plans[number - 1]
        total = sum(client["examples"] for client in plan["clients"])
        mean = {name: torch.zeros_like(value) for name, value in self.adapter.items()}
        for client in plan["clients"]:
            self.peft.set_peft_model_state_dict(self.model, self.adapter)
            self.train_client(client["name"], client["batches"], plan["learning_rate"])
            for name, value in self.peft.get_peft_model_state_dict(self.model).items():
                mean[name].add_(value.detach(), alpha=client["examples"] / total)
        self.adapter = mean

    def example(self, client: str, index: int) -> tuple[list[int], list[int]]:
        """Token ids and labels (-100: none) of one example."""
        examples = self.data.examples(client, "train")
        tokens, trained = examples.tokens(index), examples.trained(index)
        return tokens.tolist(), [token if kept else -100 for token, kept in zip(tokens.tolist(), trained, strict=True)]


class PlainPeft(PeftSide):
    """The best plain loop over PEFT's model: no checkpointing, padding to the batch's longest, fused AdamW, sdpa."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        super().__init__(folder, dtype)
        self.autocast = dtype == torch.bfloat16
        self.parameters = [value for value in self.model.parameters() if value.requires_grad]
        assert all(value.dtype == torch.float32 for value in self.parameters)
        self.model.train()

    def train_client(self, client: str, batches: list[list[int]], rate: float) -> None:
        """A loop as one writes it by hand."""
        optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0, fused=True)
        for batch in batches:
            rows = [self.example(client, index) for index in batch]
            longest = max(len(tokens) for tokens, _ in rows)
            inputs = torch.tensor([tokens + [self.padding] * (longest - len(tokens)) for tokens, _ in rows])
            labels = torch.tensor([marks + [-100] * (longest - len(marks)) for _, marks in rows])
            mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in rows])
            context = torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()
            with context:
                loss = self.model(input_ids=inputs, attention_mask=mask, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class TrlLoop(PeftSide):
    """An SFTTrainer for every client and round with gradient checkpointing, as published frameworks do (OpenFedLLM).

    Kinder than they are: text is tokenised beforehand and TRL's preparation of data sets is skipped.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import datasets
        import trl
        from transformers import AutoTokenizer

        datasets.disable_progress_bars()
        self.trl = trl
        self.tokenizer = AutoTokenizer.from_pretrained(self.recipe["model"]["base"])
        self.datasets: dict[str, Any] = {}
        for client in self.data.clients:
            rows = [self.example(client, index) for index in range(len(self.data.examples(client, "train")))]
            columns = {"input_ids": [tokens for tokens, _ in rows], "labels": [labels for _, labels in rows]}
            self.datasets[client] = datasets.Dataset.from_dict(columns)
        self.model.enable_input_require_grads()

    def train_client(self, client: str, batches: list[list[int]], rate: float) -> None:
        """Build a trainer, train, forget it."""
        trainer = self.trl.SFTTrainer(
            model=self.model,
            args=self.trl.SFTConfig(
                output_dir=str(self.folder / "trl"),
                per_device_train_batch_size=len(batches[0]),
                max_steps=len(batches),
                learning_rate=rate,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                gradient_checkpointing=True,
                bf16=False,
                use_cpu=True,
                max_length=None,
                train_sampling_strategy="sequential",
                dataset_kwargs={"skip_prepare_dataset": True},
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=self.datasets[client].select([index for batch in batches for index in batch]),
            processing_class=self.tokenizer,
        )
        trainer.train()


class Peak:
    """The matmul peak at the model's product sizes."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig

        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(recipe["model"]["base"])
        self.shapes = [*product_shapes(config), (config.hidden_size, config.vocab_size)]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Measure in both formats."""
        return {name: matmul_peak(self.shapes, getattr(torch, name)) for name in ("float32", "bfloat16")}


def main() -> None:
    """Open the side, then answer."""
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    quiet_libraries()
    warnings.simplefilter("ignore", FutureWarning)  # of TRL about transformers' names
    side: Side | Peak
    if name.startswith("fedloom"):
        side = Fedloom(folder, name.partition(" ")[2], threads)
    elif name.startswith("peft"):
        side = PlainPeft(folder, getattr(torch, name.partition(" ")[2]))
    elif name == "trl":
        side = TrlLoop(folder)
    else:
        side = Peak(folder)
    serve(side.answer)


if __name__ == "__main__":
    main()
