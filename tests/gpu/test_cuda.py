"""On a CUDA device: the flash kernel equals explicit products, and a round equals the same round on the CPU."""

import numpy as np
import pytest
import torch

from fedloom.arms import build_arms
from fedloom.model.attention import PackedAttention, packed_attention
from fedloom.model.attention_layout import AttentionLayout
from fedloom.recipe import load_recipe
from fedloom.session import open_session
from tests.federated_runs import recipe, write_examples

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_flash_equals_explicit_products(key_heads, window):
    layout = AttentionLayout(np.array([20, 7, 200, 1, 33, 20]), [-1, 0, 0, -1, -1, 4], "cuda")
    generator = torch.Generator().manual_seed(0)
    shape = (281, 4 + 2 * key_heads, 32)
    rows = torch.randn(shape, generator=generator).bfloat16().cuda()
    weights = torch.randn(281, 4 * 32, generator=generator).cuda()
    found = []
    for flash in (True, False):
        inputs = rows.clone().requires_grad_()
        if flash:
            parts = inputs.transpose(0, 1)[None].split([4, key_heads, key_heads], 1)
            out = packed_attention(torch.nn.Identity(), *parts, None, packed_layout=layout, sliding_window=window)[0]
        else:
            out = PackedAttention.apply(inputs.float().flatten(1), layout, 4, key_heads, 32**-0.5, window, None)
        (out.reshape(281, -1).float() * weights).sum().backward()
        found.append((out.reshape(281, -1).float(), inputs.grad.float()))
    for flash, explicit in zip(*found, strict=True):
        assert (flash - explicit).norm() < 2e-2 * explicit.norm()


def test_a_round_equals_the_cpu_s(tmp_path):
    write_examples(tmp_path / "words.jsonl")
    found = []
    for device in ("cuda", "cpu"):
        session = open_session(load_recipe(recipe(tmp_path / "words.jsonl", runtime={"device": device})), tmp_path)
        adapter = {name: value + 0.01 for name, value in session.grouped.initial(0).items()}
        arm = build_arms(session)[0]
        updates = session.runtime.train(arm.plan(1, {}), adapter, arm.algorithm)
        found.append(torch.stack([session.grouped.flatten(update.delta) for update in updates]))
    assert (found[0] - found[1]).norm() < 5e-2 * found[1].norm()
