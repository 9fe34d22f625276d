"""Preference losses and their gradients are those of TRL's trainers: the same LoRA, the same batch, fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fedloom.model.adapters.registry import build_adapter
from fedloom.model.base import load_base, load_tokenizer
from fedloom.model.decoder_layer import use_own_layers
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.packing import Example
from fedloom.recipe import load_recipe
from fedloom.training.objectives import ClientBatch, PreferenceObjective
from fedloom.training.references import sequence_sums

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install 'fedloom[dev]'")

TOLERANCE = 1e-5
TARGETS = ["q_proj", "v_proj", "down_proj"]
PAD = 0


@dataclass(frozen=True)
class Pair:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@pytest.fixture(scope="module")
def pairs():
    """Prompts and responses of many lengths; one prompt is long enough to be shared in the batch."""
    draw = np.random.default_rng(0)

    def ids(length):
        return draw.integers(5, 250, length).tolist()

    return [Pair(ids(p), ids(c), ids(r)) for p, c, r in ((3, 5, 9), (40, 12, 4), (7, 1, 6), (21, 30, 30), (5, 8, 2))]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A tiny Llama with random weights, the embedded model's tokenizer, and an adapter some way into its training."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    load_tokenizer(load_recipe({}).model).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=2048, **sizes)).save_pretrained(folder)
    adapter = {"rank": 4, "targets": TARGETS}
    config = load_recipe({"model": {"base": str(folder), "dtype": "float32", "adapter": adapter}}).model
    model = load_base(config, torch.device("cpu"))
    grouped = build_adapter(model, config.adapter)
    use_own_layers(model, grouped)
    generator = torch.Generator().manual_seed(3)
    fresh = grouped.initial(0)
    adapter = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}
    return SimpleNamespace(model=model, grouped=grouped, adapter=adapter, fresh=fresh, config=config)


def task(**options):
    fields = {"prompt": "p", "chosen": "c", "rejected": "r"}
    recipe = {"task": {"kind": "dpo", **options}, "data": {"source": "x.jsonl", "fields": fields}}
    return load_recipe(recipe).task


def sequence(prompt: Sequence[int], response: Sequence[int]) -> Example:
    trained = np.arange(len(prompt) + len(response)) >= len(prompt)
    return Example(np.array([*prompt, *response]), trained)


def our_step(ours, options, sequences, desirable=None):
    """Loss and gradients of one client's step."""
    reference = torch.from_numpy(sequence_sums(ours.model, ours.grouped, ours.fresh, sequences))
    labels = None if desirable is None else torch.tensor(desirable)
    client = ClientBatch(sequences, reference, labels)
    ours.grouped.load([ours.adapter])
    packed = pack_groups(ours.grouped, [sequences])
    objective = PreferenceObjective(options, 1000, None)
    found = objective.loss(label_losses(ours.model, ours.grouped, packed), packed, [client])
    ours.grouped.backward(found.total)
    return float(found.sums[0]) / int(found.counts[0]), ours.grouped.unflatten(ours.grouped.gradients[0])


def trainer_of(trainer_class, config_class, ours, rows, tmp_path, **options):
    """TRL's trainer, built with the least it needs, and then given our adapter."""
    lora = ours.config.adapter
    base = AutoModelForCausalLM.from_pretrained(ours.config.base, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=TARGETS))
    tokenizer = load_tokenizer(ours.config)
    datasets = pytest.importorskip("datasets")
    arguments = config_class(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_dropout=True, per_device_train_batch_size=2, remove_unused_columns=False, **options,
    )  # fmt: skip
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    # Only now: what the model is when the trainer gets it is the trainer's reference.
    set_peft_model_state_dict(trainer.model, ours.adapter)
    return trainer


def trl_gradients(trainer, loss: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    parameters = dict(trainer.model.named_parameters())
    named = [parameters[name.replace(".weight", ".default.weight")] for name in names]
    return dict(zip(names, torch.autograd.grad(loss, named), strict=True))


def assert_equal(found: tuple[float, Mapping[str, torch.Tensor]], loss: float, gradients: Mapping[str, torch.Tensor]):
    """Within `TOLERANCE`, relatively: the loss, and the gradients of all of LoRA's tensors."""
    assert found[0] == pytest.approx(loss, rel=TOLERANCE)
    ours, theirs = (torch.cat([some[name].flatten() for name in gradients]) for some in (found[1], gradients))
    assert theirs.norm() > 1e-2
    assert (ours - theirs).norm() < TOLERANCE * theirs.norm()


TEXTS = [{"prompt": "one", "chosen": " two", "rejected": " three"}, {"prompt": "a", "chosen": " b", "rejected": " c"}]


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        # TRL has the conservative loss no more, but as a sum: 2 (1 - e) sigmoid - (1 - 2 e) robust.
        (
            {"loss": "sigmoid", "beta": 0.5, "label_smoothing": 0.2},
            {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.6, -0.6], "label_smoothing": 0.2},
        ),
        ({"loss": "ipo", "beta": 0.3}, {"loss_type": ["ipo"]}),
    ],
    ids=["sigmoid", "smoothed", "ipo"],
)
def test_losses_with_a_reference_equal_dpo_trainer(ours, pairs, tmp_path, options, theirs):
    options = task(**options)
    trainer = trainer_of(trl.DPOTrainer, trl.DPOConfig, ours, TEXTS, tmp_path, beta=options.beta, **theirs)
    batch = trainer.data_collator(
        [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in pairs]
    )
    loss = trainer.compute_loss(trainer.model, batch)
    sequences = [sequence(p.prompt, response) for p in pairs for response in (p.chosen, p.rejected)]
    assert_equal(our_step(ours, options, sequences), loss.item(), trl_gradients(trainer, loss, ours.grouped.shapes))


def test_kto_equals_kto_trainer(ours, pairs, tmp_path):
    options = task(loss="kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.8)
    rows = [{"prompt": "one", "completion": " two", "label": True}, {"prompt": "a", "completion": " b", "label": False}]
    trainer = trainer_of(
        trl.KTOTrainer, trl.KTOConfig, ours, rows, tmp_path,
        beta=options.beta, desirable_weight=1.5, undesirable_weight=0.8,
    )  # fmt: skip
    desirable = [True, False, True, True, False]
    batch = trainer.data_collator(
        [
            {
                "prompt_ids": p.prompt,
                "completion_ids": p.chosen,
                "KL_completion_ids": pairs[i - 1].chosen,
                "label": good,
            }
            for i, (p, good) in enumerate(zip(pairs, desirable, strict=True))
        ]
    )
    loss = trainer.compute_loss(trainer.model, batch)
    sequences = [
        sequence(p.prompt, response) for i, p in enumerate(pairs) for response in (p.chosen, pairs[i - 1].chosen)
    ]
    found = our_step(ours, options, sequences, desirable)
    assert_equal(found, loss.item(), trl_gradients(trainer, loss, ours.grouped.shapes))


def concatenated(pairs: Sequence[Pair]) -> dict[str, Any]:
    """A batch as TRL's ORPO and CPO trainers collate it."""
    batch = {}
    for name in ("chosen", "rejected"):
        rows = [sequence(p.prompt, getattr(p, name)) for p in pairs]
        longest = max(len(row.tokens) for row in rows)
        ids = torch.full((len(rows), longest), PAD)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for place, row in enumerate(rows):
            tokens = torch.from_numpy(row.tokens)
            ids[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
            labels[place, : len(tokens)] = torch.where(torch.from_numpy(row.trained), tokens, -100)
        batch |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask, f"{name}_labels": labels}
    return batch


def test_simpo_equals_cpo_trainer(ours, pairs, tmp_path):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    options = task(loss="simpo", beta=2.0, margin=0.7)
    trainer = trainer_of(
        CPOTrainer, CPOConfig, ours, TEXTS, tmp_path, loss_type="simpo", beta=2.0, simpo_gamma=0.7, cpo_alpha=0.0
    )
    loss = trainer.compute_loss(trainer.model, concatenated(pairs))
    sequences = [sequence(p.prompt, response) for p in pairs for response in (p.chosen, p.rejected)]
    assert_equal(our_step(ours, options, sequences), loss.item(), trl_gradients(trainer, loss, ours.grouped.shapes))


@pytest.fixture(scope="module")
def orpo(ours, tmp_path_factory):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return trainer_of(ORPOTrainer, ORPOConfig, ours, TEXTS, tmp_path_factory.mktemp("orpo"), beta=0.4)


def test_orpo_equals_orpo_trainer(ours, pairs, orpo):
    """TRL's whole loss, pair by pair, of prompts of one token: it takes longer ones' tokens into the cross-entropy."""
    short = [Pair(p.prompt[:1], p.chosen, p.rejected) for p in pairs]
    losses = [orpo.compute_loss(orpo.model, concatenated([pair])) for pair in short]
    loss = torch.stack(losses).mean()
    sequences = [sequence(p.prompt, response) for p in short for response in (p.chosen, p.rejected)]
    found = our_step(ours, task(loss="orpo", beta=0.4), sequences)
    assert_equal(found, loss.item(), trl_gradients(orpo, loss, ours.grouped.shapes))


def test_orpo_with_longer_prompts(ours, pairs, orpo):
    """TRL's odds ratios, and the cross-entropy of the chosen response alone, as the paper has it."""
    chosen, rejected, *_ = orpo.concatenated_forward(orpo.model, concatenated(pairs))
    ratios, *_ = orpo.odds_ratio_loss(chosen, rejected)
    loss = (-chosen - ratios).mean()
    sequences = [sequence(p.prompt, response) for p in pairs for response in (p.chosen, p.rejected)]
    found = our_step(ours, task(loss="orpo", beta=0.4), sequences)
    assert_equal(found, loss.item(), trl_gradients(orpo, loss, ours.grouped.shapes))
