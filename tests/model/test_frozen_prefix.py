"""Activations below the lowest adapter, kept or computed anew: the same adapters to the last bit."""

import numpy as np
import pytest
import torch

from fedloom.arms import build_arms
from fedloom.model.forward import label_losses
from fedloom.model.frozen_prefix import ActivationStore
from fedloom.model.packing import Example, pack
from fedloom.recipe import load_recipe
from fedloom.session import GIB, open_session
from tests.federated_runs import recipe, write_examples

TOP = {"adapter": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"], "layers": [4, 5]}}


def trained(folder, gigabytes, dtype):
    """The adapter of two rounds, the session, and how many activations were computed."""
    values = recipe(
        folder / "words.jsonl", model={**TOP, "dtype": dtype}, runtime={"prefix_cache_gb": gigabytes, "cohort": 3}
    )
    session = open_session(load_recipe(values), folder)
    prefix = session.grouped.frozen_prefix
    computed, compute = [], prefix._compute

    def counted(examples):
        computed.extend(examples)
        return compute(examples)

    prefix._compute = counted
    arm = build_arms(session)[0]
    adapter, state = session.grouped.initial(0), {}
    results = []
    for number in (1, 2):
        updates = session.runtime.train(arm.plan(number, state), adapter, arm.algorithm)
        adapter, state = arm.algorithm.step(adapter, state, updates)
        results.append(session.evaluator.shared(adapter))
    return adapter, results, len(computed), session


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kept_or_computed_anew_gives_the_same_bits(tmp_path, dtype):
    write_examples(tmp_path / "words.jsonl")
    kept, kept_results, computed, session = trained(tmp_path, 1.0, dtype)
    anew, anew_results, computed_anew, _ = trained(tmp_path, 0.0, dtype)
    # Room for some of the examples only.
    partly, partly_results, computed_partly, _ = trained(tmp_path, 1e-3, dtype)
    examples = sum(session.data.totals().values())
    assert computed <= examples < computed_partly < computed_anew
    for adapter, results in ((anew, anew_results), (partly, partly_results)):
        assert all(torch.equal(adapter[name], kept[name]) for name in kept)
        assert results == kept_results
    assert any(kept[name].abs().max() > 0 for name in kept if ".lora_B." in name)


def test_equals_a_pass_through_all_layers(tmp_path):
    write_examples(tmp_path / "words.jsonl")
    session = open_session(load_recipe(recipe(tmp_path / "words.jsonl", model=TOP)), tmp_path)
    lora = session.grouped
    generator = np.random.default_rng(0)
    prompt = generator.integers(3, 2000, 20)
    examples = [
        Example(np.concatenate([prompt, generator.integers(3, 2000, n)]), np.arange(20 + n) > 19 + n // 2, n)
        for n in (3, 30, 9)
    ]
    batch = pack([examples, examples[:1]])
    assert batch.tokens < batch.example_tokens.sum()
    adapter = {name: value + 0.01 for name, value in lora.initial(0).items()}
    found = []
    for prefix in (lora.frozen_prefix, lora.frozen_prefix, None):
        lora.frozen_prefix = prefix
        lora.load([adapter] * 2)
        losses = label_losses(session.model, lora, batch)
        lora.backward(losses.sum())
        found.append((losses.detach(), lora.gradients.clone()))
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], found[2][0], atol=1e-4, rtol=1e-4)
    assert (found[0][1] - found[2][1]).norm() < 1e-4 * found[2][1].norm()


def test_store_keeps_within_its_budget(tmp_path):
    store = ActivationStore(tmp_path, 100)
    first, second = np.arange(60, dtype=np.uint8), np.arange(50, dtype=np.uint8)
    store.put(7, first)
    store.put(8, second)
    store.put(9, first[:40])
    assert np.array_equal(store.get(7), first)
    assert store.get(8) is None
    assert np.array_equal(store.get(9), first[:40])
    assert not any(tmp_path.iterdir()), "nothing to clean up after a kill"
    assert GIB == 2**30
