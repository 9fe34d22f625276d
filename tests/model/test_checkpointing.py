"""Activation checkpointing: less memory, the same adapters to the last bit, for every kind of layer."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from fedloom.arms import build_arms
from fedloom.model.forward import label_losses
from fedloom.model.packing import Example, pack
from fedloom.recipe import load_recipe
from fedloom.runtime.cohort_size import bytes_per_token
from fedloom.session import open_model, open_session
from tests.federated_runs import recipe, write_examples


def deltas(folder, **runtime):
    values = recipe(folder / "words.jsonl", runtime=runtime)
    session = open_session(load_recipe(values), folder)
    arm = build_arms(session)[0]
    updates = session.runtime.train(arm.plan(1, {}), session.grouped.initial(0), arm.algorithm)
    return session, {update.client: session.grouped.flatten(update.delta) for update in updates}


def test_the_same_updates_in_less_memory(tmp_path):
    write_examples(tmp_path / "words.jsonl")
    session, kept = deltas(tmp_path, activation_checkpointing=False)
    recomputing, recomputed = deltas(tmp_path, activation_checkpointing=True)
    # A budget that no client's batch fits into chooses it by itself.
    chosen, by_budget = deltas(tmp_path, memory_gb=1e-3)
    assert (session.grouped.recompute, recomputing.grouped.recompute, chosen.grouped.recompute) == (False, True, True)
    assert all(torch.equal(kept[client], recomputed[client]) for client in kept)
    assert all(torch.equal(kept[client], by_budget[client]) for client in kept)
    sizes = [bytes_per_token(session.model, session.grouped)]
    session.grouped.recompute = True
    sizes.append(bytes_per_token(session.model, session.grouped))
    assert sizes[1] < 0.3 * sizes[0]


def test_measuring_activations_frees_them():
    model, lora = open_model(load_recipe({"model": {"dtype": "float32"}}))

    def left_behind():
        bytes_per_token(model, lora)
        gc.collect()
        return sum(one.untyped_storage().nbytes() for one in gc.get_objects() if type(one) is torch.Tensor)

    first = left_behind()
    # A few buffers live until the next batch is packed; 64 tokens' activations are 20 MB and more.
    assert abs(left_behind() - first) < 1 << 20


def test_another_thread_may_compute_again():
    model, lora = open_model(load_recipe({"model": {"dtype": "float32"}}))
    adapter = {name: value + 0.01 for name, value in lora.initial(0).items()}
    lora.load([adapter])
    batch = pack([[Example(np.arange(3, 40), np.ones(37, dtype=bool))]])
    found = []
    for recompute in (False, True):
        lora.recompute = recompute
        loss = label_losses(model, lora, batch).sum()
        # Accelerators take the way back in a thread of their own, where no adapter is loaded.
        with ThreadPoolExecutor(1) as other:
            found.append(other.submit(torch.autograd.grad, loss, list(lora.loaded()["parameters"].values())).result())
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert any(bool(gradient.abs().max() > 0) for gradient in found[0])
