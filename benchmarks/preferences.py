"""Rounds of DPO against TRL's trainer, which computes the reference anew in every step; and what rounds teach.

Speed: the embedded Llama of 2.1 M parameters, LoRA of rank 16 on all linear layers, dialogues of HH-RLHF of up to 256
tokens, a round of 4 clients with 4 steps of 4 pairs each, AdamW, fp32, one thread.

  fedloom, later rounds   references are known from an earlier round; prompts of pairs are computed once
  fedloom, first round    references are computed as well
  trl                     TRL's DPOTrainer over PEFT's model, built once: its collator (chosen and rejected answers end
                          to end, padded) and its loss (a pass of the policy and one of the reference in every step), in
                          a plain loop, one client after another

Same pairs in the same order, so losses must agree. Learning: DPO on HH-RLHF and UltraFeedback with stories260K, a
pretrained model of 260 thousand parameters, three seeds each: reward accuracy on the pairs trained on, and on clients'
own tests. TRL is not needed for that part.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.table import Table

import fedloom
from fedloom.aggregation import Update
from fedloom.arms import build_arms
from fedloom.beginning import adapter_at_start
from fedloom.evaluation.preference_scoring import score_preferences
from fedloom.model.base import POCKET, load_tokenizer
from fedloom.recipe import load_recipe
from fedloom.run_directory import ADAPTER, METRICS
from fedloom.runtime import RoundPlan
from fedloom.session import Session, open_session
from fedloom.training.batches import round_batches
from fedloom.training.references import References
from harness import Target, arguments_of, finish, median_timing, shared_folder, skip, take_turns

NAME = "preferences"
FILES = {
    "HH-RLHF": Path("data/preference/hh_harmless_base.jsonl.gz"),
    "UltraFeedback": Path("data/preference/ultrafeedback_1k.jsonl.gz"),
}
STORIES = Path("models/stories260K")
FIELDS = {
    "HH-RLHF": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "dialogue": "hh"},
    "UltraFeedback": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
}
REPETITIONS, SEEDS = 3, 3
SPEED_TARGET, LOSS_TARGET = 1.8, 1e-4


def speed_recipe(quick: bool) -> dict[str, Any]:
    """A round of DPO."""
    return {
        "name": "speed",
        "model": {"base": "pocket", "dtype": "float32", "adapter": {"rank": 16, "alpha": 32, "targets": "all-linear"}},
        "data": {
            "source": {"path": str(shared_folder() / FILES["HH-RLHF"]), "fields": FIELDS["HH-RLHF"], "examples": 400},
            "template": "chat",
            "max_tokens": 256,
            "partition": {"kind": "iid", "clients": 8},
        },
        "task": {"kind": "dpo"},
        "federation": {"rounds": 10, "clients_per_round": 4},
        "local": {"steps": 1 if quick else 4, "batch_size": 4, "learning_rate": 1e-4},
        "runtime": {"threads": 1, "device": "cpu"},
    }


def learning_recipe(name: str, seed: int, quick: bool) -> dict[str, Any]:
    """A run of DPO on real preferences."""
    return {
        "name": "learning",
        "seed": seed,
        "model": {
            "base": str(shared_folder() / STORIES),
            "dtype": "float32",
            "adapter": {"rank": 16, "alpha": 32, "targets": "all-linear"},
        },
        "data": {
            "source": {"path": str(shared_folder() / FILES[name]), "fields": FIELDS[name], "examples": 800},
            "template": "alpaca",
            "max_tokens": 192,
            "partition": {"kind": "iid", "clients": 8},
            "split": {"validation": 0.0, "test": 0.3},
        },
        "task": {"kind": "dpo", "beta": 0.1},
        "federation": {"rounds": 1 if quick else 4, "clients_per_round": 4},
        "local": {"steps": 1 if quick else 6, "batch_size": 8, "learning_rate": 5e-4, "schedule": "cosine"},
        "runtime": {"device": "cpu"},
    }


class Rival:
    """TRL's DPOTrainer in a plain loop.

    Args:
        session: Fedloom's, whose data, plan and first adapter it takes.
        plan: the round.
        folder: for TRL's files.
    """

    def __init__(self, session: Session, plan: RoundPlan, folder: Path) -> None:
        from datasets import Dataset
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM
        from trl import DPOConfig, DPOTrainer

        recipe, lora = session.recipe, session.recipe.model.adapter
        base = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
        layers = sorted({layer.rpartition(".")[2] for layer in session.grouped.layers})
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers)
        arguments = DPOConfig(
            output_dir=str(folder), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
            beta=recipe.task.beta, max_length=None,
        )  # fmt: skip
        rows = Dataset.from_list([{"prompt": "one", "chosen": " two", "rejected": " three"}] * 2)
        tokenizer = load_tokenizer(recipe.model)
        self.trainer = DPOTrainer(get_peft_model(base, config), args=arguments, train_dataset=rows,
                                  processing_class=tokenizer)  # fmt: skip
        self.session, self.plan = session, plan
        self.start = adapter_at_start(session)
        self.losses: dict[str, float] = {}

    def round(self) -> None:
        """Train the plan's clients, one after another."""
        from peft import set_peft_model_state_dict

        recipe, plan, model = self.session.recipe, self.plan, self.trainer.model
        local = recipe.local
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for client in plan.clients:
            set_peft_model_state_dict(model, self.start)
            optimizer = torch.optim.AdamW(
                trained, lr=plan.learning_rate, weight_decay=local.weight_decay, eps=local.epsilon
            )
            examples = self.session.data.examples(client, "train")
            losses = []
            for batch in round_batches(len(examples), local, plan.batch_size, recipe.seed, plan.round, client):
                rows = []
                for place in map(int, batch):
                    other = examples.rejected(place)
                    assert other is not None
                    tokens, prompt = examples.tokens(place).tolist(), int(examples.trained(place).argmax())
                    rows.append(
                        {
                            "prompt_ids": tokens[:prompt],
                            "chosen_ids": tokens[prompt:],
                            "rejected_ids": other[0].tolist()[prompt:],
                        }
                    )
                optimizer.zero_grad()
                loss = self.trainer.compute_loss(model, self.trainer.data_collator(rows))
                loss.backward()
                if local.max_gradient_norm is not None:
                    torch.nn.utils.clip_grad_norm_(trained, local.max_gradient_norm)
                optimizer.step()
                losses.append(loss.item())
            self.losses[client] = fmean(losses)


def compare_speed(quick: bool, folder: Path) -> tuple[Table, list[Target], dict[str, Any]]:
    """Time the sides on one round."""
    torch.set_num_threads(1)
    session = open_session(load_recipe(speed_recipe(quick)), folder / "run")
    arm = build_arms(session)[0]
    start = adapter_at_start(session)
    plan = arm.plan(1, arm.algorithm.init(start))
    rival = Rival(session, plan, folder / "trl")
    updates: dict[str, Update] = {}
    objective: Any = session.runtime.objective  # type: ignore[attr-defined]
    known = objective.references
    files = iter(range(1000))

    def ours() -> None:
        updates.update({update.client: update for update in session.runtime.train(plan, start, arm.algorithm)})

    def first_round() -> None:
        objective.references = References(
            folder / f"{next(files)}.bin", session.data.rows, session.model, session.grouped, session.runtime.lanes,  # type: ignore[attr-defined]
            session.reference, session.data.longest,
        )  # fmt: skip
        ours()
        objective.references = known

    sides: dict[str, Callable[[], None]] = {
        "trl": rival.round, "fedloom, first round": first_round, "fedloom, later rounds": ours
    }  # fmt: skip
    timings = {name: median_timing(found) for name, found in take_turns(sides, 1 if quick else REPETITIONS).items()}
    table = Table("a round", "CPU seconds", "wall seconds", "times as fast, CPU", title="speed")
    for name, timing in timings.items():
        table.add_row(name, f"{timing.cpu:.2f}", f"{timing.wall:.2f}", f"{timings['trl'].cpu / timing.cpu:.2f}")
    differences = [abs(updates[name].metrics["loss"] / loss - 1) for name, loss in rival.losses.items()]
    ratio = timings["trl"].cpu / timings["fedloom, later rounds"].cpu
    targets = [
        Target("a later round of DPO, times as fast as TRL's loop", ratio, SPEED_TARGET),
        Target("largest relative difference of a client's loss", max(differences), LOSS_TARGET, at_most=True),
    ]
    numbers = {name: {"cpu": timing.cpu, "wall": timing.wall} for name, timing in timings.items()}
    return table, targets, {"speed": numbers, "largest_loss_difference": max(differences)}


def trained_accuracy(recipe: dict[str, Any], out: Path) -> float:
    """Reward accuracy of a finished run's adapter on the pairs it was trained on, mean over clients."""
    session = open_session(load_recipe(recipe), out)
    sets = [session.data.examples(client, "train") for client in session.data.clients]
    scores = score_preferences(
        session.model,
        session.grouped,
        session.evaluator.lanes,
        [session.grouped.read(out / ADAPTER)],
        session.evaluator.reference(),  # type: ignore[misc]
        session.recipe.task,
        session.data.longest,
        ((0, examples) for examples in sets),
    )
    return fmean(one.measures()["reward_accuracy"] for one in scores)


def measure_learning(quick: bool, folder: Path) -> tuple[Table, list[Target], dict[str, Any]]:
    """Reward accuracy after training, over seeds; before, every pair is a tie and it is 0.5."""
    measures = ("loss", "reward_accuracy", "reward_margin", "kl")
    table = Table("data", "pairs trained on: reward accuracy", *(f"held out: {name}" for name in measures))
    table.title = "learning"
    targets, numbers = [], {}
    for name in FILES:
        reached = []
        for seed in range(1 if quick else SEEDS):
            recipe, out = learning_recipe(name, seed, quick), folder / f"{name}-{seed}"
            fedloom.run(recipe, out)
            held_out = json.loads((out / METRICS).read_text(encoding="utf-8"))["eval"]
            reached.append({"trained": trained_accuracy(recipe, out), **{key: held_out[key] for key in measures}})
        spread = {key: [one[key] for one in reached] for key in ("trained", *measures)}
        texts = [
            f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
            for values in spread.values()
        ]
        table.add_row(name, *texts)
        lowest = min(spread["trained"])
        targets.append(Target(f"{name}, pairs trained on: lowest reward accuracy of a seed", lowest, 0.6))
        if name == "HH-RLHF":
            mean = fmean(spread["reward_accuracy"])
            targets.append(Target(f"{name}, held out: mean reward accuracy", mean, 0.51))
        numbers[name] = spread
    return table, targets, {"learning": numbers}


def main() -> None:
    """Measure both and print them."""
    parser = arguments_of(__doc__)
    parser.add_argument("--part", choices=("speed", "learning"), help="only this one")
    arguments = parser.parse_args()
    if not all((shared_folder() / path).exists() for path in (*FILES.values(), STORIES)):
        return skip(NAME, arguments, "no preference data or no stories260K beside the repository (set FEDLOOM_SHARED)")
    if arguments.part != "learning" and importlib.util.find_spec("trl") is None:
        return skip(NAME, arguments, "TRL is not installed: pip install 'fedloom[bench]'")
    parts = {"speed": compare_speed, "learning": measure_learning}
    tables, targets, numbers = [], [], {}
    with tempfile.TemporaryDirectory() as name:
        for part, measure in parts.items():
            if arguments.part in (None, part):
                table, found, written = measure(arguments.quick, Path(name))
                tables.append(table)
                targets += found
                numbers |= written
    finish(NAME, arguments, tables, targets=targets, **numbers)
    return None


if __name__ == "__main__":
    main()
