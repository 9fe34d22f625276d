"""How much units matter, how many are kept, and which entries of an adapter go with them."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation.kept_units import Tie, cut, pack_kept, scattered, unpack_kept
from fedloom.data.shards import ExampleSet
from fedloom.model.units import Block, kept_units, unit_count
from fedloom.training.unit_importance import unit_importance
from tests.pruning.models import PARTS, Opened


@pytest.mark.parametrize("name", ["llama own", "llama plain", "bert plain"])
def test_importance_is_that_of_the_outgoing_weights(name: str, tmp_path: Any) -> None:
    """|sum w dL/dw| over each unit's outgoing weights, by plain autograd on the frozen weights of transformers."""
    opened = Opened(name, tmp_path / "model")
    examples = opened.examples((9, 21, 4))
    labels = {} if not opened.encoder else {"labels": [example.label for example in examples]}
    stored = ExampleSet.from_examples(
        [example.tokens.tolist() for example in examples], [example.trained.tolist() for example in examples], **labels
    )
    fresh = opened.grouped.initial(0)
    measured = unit_importance(opened.model, opened.grouped, opened.blocks, fresh, stored, range(3))
    everything = torch.ones(unit_count(opened.blocks), dtype=torch.bool)
    plain = opened.smaller(everything)
    if opened.encoder:
        names = opened.grouped.head_names
        plain.load_state_dict({key.removeprefix("base_model.model."): fresh[key] for key in names}, strict=False)
    opened.plain_loss(plain, examples).backward()
    modules, expected = dict(plain.named_modules()), []
    _, reader, _, after = PARTS[opened.encoder]
    for place, block in enumerate(opened.blocks):
        outgoing = next(
            module
            for key, module in modules.items()
            if key.endswith(
                (f"layers.{place // 2}.", f"layer.{place // 2}.")[opened.encoder] + (reader, after)[place % 2]
            )
        )
        products = (outgoing.weight * outgoing.weight.grad).detach().sum(0)
        expected.append(products.view(block.count, -1).sum(1).abs())
    wanted = torch.cat(expected)
    assert wanted.min() < wanted.max()
    torch.testing.assert_close(measured, wanted, rtol=1e-3, atol=1e-5 * float(wanted.max()))


BLOCKS = [Block(0, 5, {"q": 4}, "o", 4), Block(5, 13, {"up": 1}, "down", 1)]


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=18, max_size=18),
    st.floats(0, 1, exclude_max=True),
)
def test_as_many_are_kept_as_the_rate_leaves_rounded_up(importance: list[float], rate: float) -> None:
    values = torch.tensor(importance)
    kept = kept_units(values, BLOCKS, rate)
    for block in BLOCKS:
        own, matter = block.of(kept), block.of(values)
        assert int(own.sum()) == max(1, math.ceil((1 - rate) * block.count - 1e-9))
        # The rate is never exceeded, and within one unit of what was asked for.
        left_out = block.count - int(own.sum())
        assert rate * block.count - 1 < left_out <= rate * block.count + 1e-6
        if left_out:
            assert matter[own].min() >= matter[~own].max()


def test_whole_numbers_of_units_are_not_rounded() -> None:
    # (1 - 0.3) * 10 is 7.000000000000001 in binary.
    assert int(kept_units(torch.rand(10), [Block(0, 10, {}, "o", 1)], 0.3).sum()) == 7


def test_a_higher_rate_leaves_out_more_of_the_same() -> None:
    importance = torch.rand(18, generator=torch.Generator().manual_seed(0))
    some, fewer = (kept_units(importance, BLOCKS, rate) for rate in (0.3, 0.7))
    assert not (fewer & ~some).any()


@given(st.lists(st.booleans(), min_size=18, max_size=18))
def test_what_was_cut_is_put_back_in_place(bits: list[bool]) -> None:
    kept = torch.tensor(bits)
    ties = {"B": Tie(0, 5, 4, 0), "A": Tie(5, 13, 1, 1)}
    tensors = {"B": torch.randn(20, 2), "A": torch.randn(2, 13), "whole": torch.randn(2, 3)}
    small = cut(tensors, ties, kept)
    assert small["B"].shape == (4 * int(kept[:5].sum()), 2)
    assert small["A"].shape == (2, int(kept[5:].sum()))
    back = scattered(small, tensors, ties, kept)
    assert torch.equal(back["B"], tensors["B"] * kept[:5].repeat_interleave(4)[:, None])
    assert torch.equal(back["A"], tensors["A"] * kept[5:])
    assert torch.equal(back["whole"], tensors["whole"])
    packed = pack_kept(kept)
    assert len(packed) == 3
    assert torch.equal(unpack_kept(packed, 18)[:18], kept)
