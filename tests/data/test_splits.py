from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.data.readers import Record
from fedloom.data.splits import (
    choose_unseen,
    drawn_records,
    marked_records,
    round_half_up,
    split_by_fractions,
    split_client,
)
from fedloom.errors import UserError
from fedloom.recipe.data_schema import SplitConfig


def records(key: str, values: list[object]) -> list[Record]:
    return [Record({key: value}, "f.json", n) for n, value in enumerate(values, start=1)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200),
    validation=st.floats(0, 0.49),
    test=st.floats(0, 0.49),
    seed=st.integers(0, 99),
)
def test_fractions_are_kept_and_training_is_never_empty(count: int, validation: float, test: float, seed: int) -> None:
    parts = split_by_fractions(count, validation, test, seed, "x")
    sizes = Counter(parts)
    assert sizes.total() == count
    assert sizes["train"] >= 1
    assert sizes["validation"] <= round_half_up(validation * count)
    assert sizes["test"] <= round_half_up(test * count)
    if round_half_up(validation * count) + round_half_up(test * count) < count:
        assert sizes["validation"] == round_half_up(validation * count)
        assert sizes["test"] == round_half_up(test * count)
    assert parts == split_by_fractions(count, validation, test, seed, "x")


def test_half_is_rounded_up() -> None:
    assert [round_half_up(x) for x in (0.49, 0.5, 1.5, 2.5, 0.29 * 50)] == [0, 1, 2, 3, 15]
    assert Counter(split_by_fractions(5, 0.1, 0.1, 0, "x")) == {"train": 3, "validation": 1, "test": 1}


def test_clients_and_seeds_have_their_own_draws() -> None:
    draws = [split_by_fractions(50, 0.2, 0.2, seed, name) for seed, name in [(0, "a"), (0, "b"), (1, "a")]]
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_split_key_and_its_spellings() -> None:
    given_values = ["train", "validation", "valid", "val", "dev", "test", "Test"]
    parts = split_client(records("s", list(given_values)), SplitConfig(key="s"), 0, "x")
    assert parts == ["train", *["validation"] * 4, "test", "test"]
    with pytest.raises(UserError, match=r"data.split.key: f.json: record 1, s: 'tset' is not one of: train"):
        split_client(records("s", ["tset"]), SplitConfig(key="s"), 0, "x")


@pytest.mark.parametrize(
    ("held", "asked"), [(-1, -1), ("-1", -1), (-1, "-1"), (True, True), ("True", True), (1.0, 1), ("b", "b")]
)
def test_where_compares_values_and_their_text(held: object, asked: object) -> None:
    assert marked_records(records("k", [held, None, "other", [1]]), {"k": asked}) == [
        True,
        False,
        False,
        False,
    ]


def test_where_needs_some_but_not_all() -> None:
    with pytest.raises(UserError, match="no record has k: 2"):
        marked_records(records("k", [1]), {"k": 2})
    with pytest.raises(UserError, match="every record has k: 1"):
        marked_records(records("k", [1]), {"k": 1})


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 300), fraction=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_drawn_global_test(count: int, fraction: float, seed: int) -> None:
    drawn = drawn_records(count, fraction, seed)
    assert sum(drawn) == max(round_half_up(fraction * count), fraction > 0)
    assert drawn == drawn_records(count, fraction, seed)


def test_unseen_clients() -> None:
    names = [f"c{n}" for n in range(9)]
    unseen = choose_unseen(names, 3, 0)
    assert unseen == sorted(unseen)
    assert len(set(unseen) & set(names)) == 3
    assert any(choose_unseen(names, 3, seed) != unseen for seed in range(5))
    with pytest.raises(UserError, match="9 of 9 clients leaves none"):
        choose_unseen(names, 9, 0)
