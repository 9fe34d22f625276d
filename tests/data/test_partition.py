from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.data.partition import by_file, by_key, dirichlet, iid, partition_records, quantity
from fedloom.data.readers import Record
from fedloom.errors import UserError
from fedloom.recipe.data_schema import PartitionByKey, PartitionDirichlet

quick = settings(max_examples=40, deadline=None)
alphas = st.sampled_from([0.01, 0.1, 0.5, 1.0, 10.0, 1000.0])
seeds = st.integers(0, 2**40)


@quick
@given(records=st.integers(1, 300), share=st.floats(0.01, 1.0), seed=seeds)
def test_iid_gives_equal_shares(records: int, share: float, seed: int) -> None:
    clients = max(1, int(records * share))
    owners = iid(records, clients, seed)
    sizes = Counter(owners)
    assert len(owners) == records
    assert len(sizes) == clients
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert owners == iid(records, clients, seed)


@quick
@given(
    values=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=200),
    clients=st.integers(1, 20),
    alpha=alphas,
    minimum=st.integers(1, 5),
    seed=seeds,
)
def test_drawn_partitions_cover_every_record_and_keep_the_minimum(
    values: list[str], clients: int, alpha: float, minimum: int, seed: int
) -> None:
    if clients * minimum > len(values):
        needed = f"{clients * minimum} records, and there are {len(values)}"
        for draw in (
            lambda: dirichlet(values, clients, alpha, minimum, seed),
            lambda: quantity(len(values), clients, alpha, minimum, seed),
        ):
            with pytest.raises(UserError, match=needed):
                draw()
        return
    skewed = dirichlet(values, clients, alpha, minimum, seed)
    sized = quantity(len(values), clients, alpha, minimum, seed)
    for owners in (skewed, sized):
        sizes = Counter(owners)
        assert len(owners) == len(values)
        assert set(sizes) == {f"client-{n:03d}" for n in range(clients)}
        assert min(sizes.values()) >= minimum
    assert skewed == dirichlet(values, clients, alpha, minimum, seed)
    assert sized == quantity(len(values), clients, alpha, minimum, seed)


@quick
@given(order=st.permutations(range(60)), seed=seeds)
def test_dirichlet_histograms_do_not_depend_on_the_order_of_records(order: list[int], seed: int) -> None:
    values = ["a"] * 20 + ["b"] * 30 + ["c"] * 10
    shuffled = [values[place] for place in order]
    # One client may stay empty here: with a minimum, which records a repair moves follows their order.
    first = Counter(zip(dirichlet(values, 3, 5.0, 1, seed), values, strict=True))
    second = Counter(zip(dirichlet(shuffled, 3, 5.0, 1, seed), shuffled, strict=True))
    assert first == second


def skew(owners: list[str], values: list[str]) -> float:
    """Mean total variation distance between a client's values and all values."""
    kinds = sorted(set(values))
    table = {owner: Counter() for owner in owners}
    for owner, value in zip(owners, values, strict=True):
        table[owner][value] += 1
    overall = np.array([values.count(kind) for kind in kinds]) / len(values)
    shares = [np.array([row[kind] for kind in kinds]) / row.total() for row in table.values()]
    return float(np.mean([np.abs(share - overall).sum() / 2 for share in shares]))


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_small_alpha_skews_more_than_large(seed: int) -> None:
    values = [kind for kind in "abcdefgh" for _ in range(50)]
    small, large = (skew(dirichlet(values, 8, alpha, 3, seed), values) for alpha in (0.05, 100.0))
    assert small > large + 0.3
    sizes = [sorted(Counter(quantity(400, 8, alpha, 3, seed)).values()) for alpha in (0.05, 100.0)]
    assert sizes[0][-1] - sizes[0][0] > sizes[1][-1] - sizes[1][0]


def test_seeds_differ() -> None:
    values = ["a", "b"] * 50
    assert iid(100, 5, 0) != iid(100, 5, 1)
    assert dirichlet(values, 5, 0.5, 3, 0) != dirichlet(values, 5, 0.5, 3, 1)
    assert quantity(100, 5, 0.5, 3, 0) != quantity(100, 5, 0.5, 3, 1)


def test_names_are_padded_so_that_they_sort() -> None:
    assert sorted(set(iid(1200, 1200, 0)))[:2] == ["client-0000", "client-0001"]
    names = set(iid(1200, 1200, 0))
    assert sorted(names) == sorted(names, key=lambda name: int(name.split("-")[1]))


def test_by_key_is_the_value_as_text_whatever_the_order() -> None:
    records = [Record({"k": value}, "f", n) for n, value in enumerate([3, "3", "x", True])]
    assert by_key(records, "k") == ["3", "3", "x", "true"]
    assert by_key(records[::-1], "k") == by_key(records, "k")[::-1]


@pytest.mark.parametrize("value", [None, "", " ", float("nan")])
@pytest.mark.parametrize(
    "partition",
    [PartitionByKey(kind="by_key", key="k"), PartitionDirichlet(kind="dirichlet", key="k", clients=1)],
)
def test_a_record_without_a_key_value(value: object, partition: PartitionByKey | PartitionDirichlet) -> None:
    with pytest.raises(UserError, match=r"data.partition.key: f.json: record 9 has no value in the field 'k'"):
        partition_records([Record({"k": value}, "f.json", 9)], partition, 0)


def test_file_names_are_made_unique() -> None:
    files = ["d/north.jsonl.gz", "d/south.csv", "d/north.jsonl.gz"]
    assert by_file(files) == ["north", "south", "north"]
    assert by_file(["a/train.jsonl", "b/train.jsonl"]) == ["a-train", "b-train"]
    assert by_file(["x/a/train.json", "y/a/train.json", "train.json"]) == ["a-train", "a-train-2", "train"]


def test_many_clients_are_quick() -> None:
    owners = quantity(200_000, 20_000, 0.5, 3, 0)
    assert min(Counter(owners).values()) >= 3
