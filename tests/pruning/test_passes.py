"""Passes by slices, passes by masks, and a smaller transformers model built by hand compute the same."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedloom.aggregation.kept_units import scattered
from fedloom.model.forward import label_losses, pack_groups
from fedloom.model.grouped_adapter import Adapter
from fedloom.model.pruned_pass import PrunedPass, by_masks, by_slices, leaving_out
from fedloom.model.units import find_blocks
from tests.pruning.models import MODELS, Opened

# fp32: sums over fewer numbers are rounded otherwise.
TOLERANCE = 1e-5
LENGTHS = (5, 33, 2, 18)


@pytest.fixture(scope="module", params=MODELS)
def opened(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(request.param, tmp_path_factory.mktemp("model") / "model")


def step(
    opened: Opened, pruned: PrunedPass | None, adapters: list[Adapter], groups: list[Any]
) -> tuple[Tensor, list[Adapter]]:
    """Each group's mean loss, and its gradients."""
    grouped = opened.grouped
    grouped.load(adapters)
    with leaving_out(grouped, pruned):
        batch = pack_groups(grouped, groups)
        losses = label_losses(opened.model, grouped, batch)
        sums = torch.zeros(len(groups)).index_add(0, batch.label_groups, losses) / batch.label_counts
        grouped.backward(sums.sum())
    return sums.detach(), [grouped.unflatten(row) for row in grouped.gradients]


def assert_close(one: Adapter, other: Adapter) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).abs().max() <= TOLERANCE * max(float(other[name].abs().max()), 1e-2), name


def test_blocks_are_those_of_the_config(opened: Opened) -> None:
    config = opened.model.config
    heads = config.num_attention_heads if opened.encoder else config.num_key_value_heads
    assert [block.count for block in find_blocks(opened.model)] == [heads, config.intermediate_size] * 2
    assert [block.first for block in opened.blocks] == [0, heads, heads + 48, 2 * heads + 48]


def test_slices_and_masks_equal_a_smaller_model(opened: Opened) -> None:
    kept, (adapter,), examples = opened.some_kept(), opened.adapters(1), opened.examples(LENGTHS)
    model = opened.smaller(kept, adapter)
    plain_loss = opened.plain_loss(model, examples)
    plain_loss.backward()
    expected = float(plain_loss.detach())
    plain = {
        name.replace(".default", ""): value.grad
        for name, value in model.named_parameters()
        if value.grad is not None and ".lora_" in name
    }
    whole = {name: torch.zeros(shape) for name, shape in opened.grouped.own_shapes.items()}
    expected_gradients = scattered(plain, whole, opened.ties, kept)
    for pruned in (by_slices(opened.blocks, kept), by_masks(opened.blocks, kept[None].float())):
        loss, (gradients,) = step(opened, pruned, [adapter], [examples])
        assert abs(float(loss) - expected) < TOLERANCE * expected
        assert_close({name: gradients[name] for name in whole}, expected_gradients)
        # What is left out gets no gradient at all, to the bit.
        for name, tie in opened.ties.items():
            left = torch.ones(gradients[name].shape[tie.dim], dtype=torch.bool)
            left[tie.places(kept)] = False
            assert not gradients[name].movedim(tie.dim, 0)[left].any()
    # The units matter: without them the loss is another one.
    loss, _ = step(opened, None, [adapter], [examples])
    assert abs(float(loss) - expected) > 100 * TOLERANCE * expected


def test_groups_with_masks_of_their_own_do_not_touch_each_other(opened: Opened) -> None:
    adapters = opened.adapters(3)
    groups = [opened.examples(LENGTHS, seed) for seed in range(3)]
    kept = torch.stack([opened.some_kept(0), torch.ones_like(opened.some_kept()), opened.some_kept(2)])
    losses, gradients = step(opened, by_masks(opened.blocks, kept.float()), adapters, groups)
    for place in range(3):
        # The second keeps everything: alone, it is not pruned at all.
        alone = None if place == 1 else by_masks(opened.blocks, kept[place][None].float())
        loss, (own,) = step(opened, alone, [adapters[place]], [groups[place]])
        assert torch.equal(loss[0], losses[place])
        assert all(torch.equal(own[name], gradients[place][name]) for name in own)


def test_nothing_stays_behind(opened: Opened) -> None:
    adapters, examples = opened.adapters(1), opened.examples(LENGTHS)
    before, _ = step(opened, None, adapters, [examples])
    with pytest.raises(ZeroDivisionError), leaving_out(opened.grouped, by_slices(opened.blocks, opened.some_kept())):
        _ = 1 / 0
    after, _ = step(opened, None, adapters, [examples])
    assert torch.equal(before, after)
