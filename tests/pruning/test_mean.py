"""The mean over those that kept an entry, by hand numbers, and what is not accepted."""

import warnings

import pytest
import torch
from torch import Tensor

from fedloom.aggregation import Update, algorithm
from fedloom.aggregation.kept_units import KEPT, MeanOfKept, Tie, cut, pack_kept

TIES = {"l.lora_B.weight": Tie(0, 3, 1, 0), "l.lora_A.weight": Tie(3, 2, 1, 1)}
ADAPTER = {"l.lora_A.weight": torch.zeros(1, 2), "l.lora_B.weight": torch.ones(3, 1), "score": torch.zeros(1)}


def update(client: str, examples: int, kept: list[int], value: float) -> Update:
    bits = torch.tensor(kept).bool()
    whole = {name: torch.full_like(tensor, value) for name, tensor in ADAPTER.items()}
    return Update(client, cut(whole, TIES, bits), examples, {"label_tokens": 1}, {KEPT: pack_kept(bits)})


def stepped(*updates: Update, name: str = "fedavg") -> dict[str, Tensor]:
    chosen = MeanOfKept(algorithm(name), TIES)
    return chosen.step(ADAPTER, chosen.init(ADAPTER), list(updates))[0]


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_each_entry_is_averaged_over_those_that_kept_it(name: str) -> None:
    result = stepped(update("a", 1, [1, 1, 0, 1, 0], 4.0), update("b", 3, [1, 0, 0, 0, 0], 8.0), name=name)
    # Both kept the first head: (1 * 4 + 3 * 8) / 4; only a the second; nobody the third.
    assert result["l.lora_B.weight"].flatten().tolist() == [1 + 7.0, 1 + 4.0, 1.0]
    assert result["l.lora_A.weight"].flatten().tolist() == [4.0, 0.0]
    # What belongs to no unit is everybody's.
    assert result["score"].tolist() == [7.0]


def test_who_leaves_out_nothing_sends_whole_tensors() -> None:
    whole = {name: torch.full_like(tensor, 4.0) for name, tensor in ADAPTER.items()}
    plain = Update("a", whole, 1)
    result = stepped(plain, update("b", 3, [0, 0, 1, 0, 1], 8.0))
    assert result["l.lora_B.weight"].flatten().tolist() == [5.0, 5.0, 8.0]
    assert result["l.lora_A.weight"].flatten().tolist() == [4.0, 7.0]


def test_where_all_keep_everything_it_is_the_plain_mean_to_the_bit() -> None:
    draw = torch.Generator().manual_seed(0)
    updates = [
        Update(str(k), {name: torch.randn(t.shape, generator=draw) for name, t in ADAPTER.items()}, 7 + k)
        for k in range(5)
    ]
    plain = algorithm("fedavg")
    expected, _ = plain.step(ADAPTER, plain.init(ADAPTER), updates)
    result = stepped(*updates)
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_one_factor_alone() -> None:
    b = "l.lora_B.weight"
    bits = torch.tensor([0, 1, 1, 1, 1]).bool()
    delta = {b: torch.full((2, 1), 2.0), "score": torch.ones(1)}
    result = stepped(Update("a", delta, 2, {}, {KEPT: pack_kept(bits)}), name="ffa_lora")
    assert result[b].flatten().tolist() == [1.0, 3.0, 3.0]
    assert torch.equal(result["l.lora_A.weight"], ADAPTER["l.lora_A.weight"])


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        (torch.zeros(1), "can't tell which of 5 units"),
        (torch.zeros(0, dtype=torch.uint8), "can't tell which of 5 units"),
        (pack_kept(torch.tensor([1, 1, 1, 1, 0]).bool()), "as the units kept say"),
    ],
    ids=["floats", "too-few", "other-units"],
)
def test_an_update_that_does_not_fit_its_units_is_left_out(bits: Tensor, reason: str) -> None:
    good, bad = update("a", 1, [1, 1, 0, 1, 0], 4.0), update("b", 3, [1, 0, 0, 0, 0], 8.0)
    with pytest.warns(UserWarning, match=reason):
        result = stepped(good, Update("b", bad.delta, 3, {}, {KEPT: bits}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = stepped(good)
    assert all(torch.equal(result[name], expected[name]) for name in expected)
