"""The partition label_prior: sizes and priors are those that were drawn, as far as the supply of labels allows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.data.label_prior import fitted, label_prior, rounded
from fedloom.data.partition import partition_records
from fedloom.data.readers import Record
from fedloom.errors import UserError
from fedloom.randomness import numpy_generator
from fedloom.recipe.data_schema import PartitionLabelPrior

PARTS = ("train", "validation", "test")


def counts(owners: list[str], values: list[str], parts: list[str], part: str) -> np.ndarray:
    """[clients, labels]: records of one part."""
    names, labels = sorted(set(owners)), sorted(set(values))
    table = np.zeros((len(names), len(labels)), dtype=np.int64)
    for owner, value, of in zip(owners, values, parts, strict=True):
        if of == part:
            table[names.index(owner), labels.index(value)] += 1
    return table


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.sampled_from("abcd"), min_size=1, max_size=200),
    clients=st.integers(1, 12),
    alpha=st.sampled_from([0.001, 0.1, 1.0, 1000.0]),
    size_alpha=st.sampled_from([0.05, 5.0, None]),
    minimum=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_every_record_is_dealt_and_the_minimum_kept(
    values: list[str], clients: int, alpha: float, size_alpha: float | None, minimum: int, seed: int
) -> None:
    parts = [PARTS[place % 7 % 3] for place in range(len(values))]
    draw = (values, parts, clients, alpha, size_alpha, minimum, seed)
    if clients * minimum > len(values):
        with pytest.raises(UserError, match=f"{clients * minimum} records, and there are {len(values)}"):
            label_prior(*draw)
        return
    owners = label_prior(*draw)
    sizes = Counter(owners)
    assert len(owners) == len(values)
    assert set(sizes) == {f"client-{n:03d}" for n in range(clients)}
    assert min(sizes.values()) >= minimum
    assert owners == label_prior(*draw)


@settings(max_examples=40, deadline=None)
@given(
    supply=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any),
    clients=st.integers(1, 15),
    alpha=st.sampled_from([0.001, 0.1, 1.0, 1000.0]),
    seed=st.integers(0, 2**40),
)
def test_dealing_uses_the_supply_up_and_keeps_sizes(supply: list[int], clients: int, alpha: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    priors = generator.dirichlet(np.full(len(supply), alpha), clients)
    shares = generator.dirichlet(np.full(clients, 5.0))
    held = np.array(supply)
    table = fitted(priors, shares, held)
    dealt = rounded(table, held)
    assert (dealt >= 0).all()
    assert dealt.sum(axis=0).tolist() == supply
    assert np.abs(dealt.sum(axis=1) - table.sum(axis=1)).max() <= 1


def test_a_supply_that_matches_the_priors_is_dealt_by_them() -> None:
    priors = np.array([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]])
    shares = np.array([0.25, 0.25, 0.5])
    table = fitted(priors, shares, np.array([200, 200]))
    assert table == pytest.approx(np.array([[75, 25], [25, 75], [100, 100]]), abs=1e-6)
    assert rounded(table, np.array([200, 200])).tolist() == [[75, 25], [25, 75], [100, 100]]


def test_a_table_of_two_by_two_by_hand() -> None:
    # Odds ratio of the priors: (.8 * .8) / (.2 * .2) = 16, which fitting keeps. Rows 10 and 10, columns 8 and 12:
    # x (2 + x) / ((10 - x) (8 - x)) = 16 has the root x = 6.911 (15 x^2 - 290 x + 1280 = 0).
    table = fitted(np.array([[0.8, 0.2], [0.2, 0.8]]), np.array([0.5, 0.5]), np.array([8, 12]))
    x = (290 - np.sqrt(290**2 - 4 * 15 * 1280)) / 30
    assert table == pytest.approx(np.array([[x, 10 - x], [8 - x, 2 + x]]), abs=1e-3)
    assert rounded(table, np.array([8, 12])).tolist() == [[7, 3], [1, 9]]


def test_parts_share_sizes_and_priors() -> None:
    values = [value for value, number in (("0", 3000), ("1", 3600)) for _ in range(number)]
    parts = ["test" if place % 4 == 0 else "train" for place in range(len(values))]
    owners = label_prior(values, parts, 20, 1.0, 5.0, 3, 0)
    train, test = (counts(owners, values, parts, part) for part in ("train", "test"))
    shares = [table.sum(axis=1) / table.sum() for table in (train, test)]
    assert np.abs(shares[0] - shares[1]).max() < 2 / test.sum() + 2 / train.sum()
    rates = [table[:, 1] / table.sum(axis=1) for table in (train, test)]
    # Whole records: of a client with n test records, rates agree to about 1 / n.
    assert (np.abs(rates[0] - rates[1]) <= 2.5 / test.sum(axis=1)).all()
    assert np.corrcoef(rates)[0, 1] > 0.99
    # The priors are those drawn for each client, moved together by what the supply allows.
    drawn = [numpy_generator(0, "label_prior", 0, f"client-{n:03d}").dirichlet([1.0, 1.0])[1] for n in range(20)]
    assert np.argsort(drawn).tolist() == np.argsort(rates[0]).tolist()
    # Dealt without regard to parts, a client's test part does not follow its training prior by construction.
    single = label_prior(values, [""] * len(values), 20, 1.0, 5.0, 3, 0)
    apart = [counts(single, values, parts, part) for part in ("train", "test")]
    loose = [table[:, 1] / table.sum(axis=1) for table in apart]
    assert np.abs(loose[0] - loose[1]).max() > np.abs(rates[0] - rates[1]).max()


def test_small_alpha_skews_labels_and_small_size_alpha_sizes() -> None:
    values, parts = ["a", "b", "c", "d"] * 500, ["train"] * 2000

    def drawn(alpha: float, size_alpha: float | None) -> np.ndarray:
        return counts(label_prior(values, parts, 10, alpha, size_alpha, 3, 1), values, parts, "train")

    most = [float(np.mean(table.max(axis=1) / table.sum(axis=1))) for table in (drawn(0.1, None), drawn(1000.0, None))]
    assert most[0] > 0.7
    assert most[1] < 0.3
    assert set(drawn(1.0, None).sum(axis=1)) == {200}
    spread = [float(drawn(1.0, size).sum(axis=1).std()) for size in (0.5, 100.0)]
    assert spread[0] > 4 * spread[1]


def test_the_order_of_records_decides_nothing_but_which_records() -> None:
    values, parts = ["a", "b", "b", "c"] * 50, ["train", "train", "test", "test"] * 50
    order = np.random.default_rng(0).permutation(200)
    one = label_prior(values, parts, 7, 0.5, 5.0, 1, 3)
    other = label_prior([values[n] for n in order], [parts[n] for n in order], 7, 0.5, 5.0, 1, 3)
    assert Counter(zip(one, values, parts, strict=True)) == Counter(
        zip(other, [values[n] for n in order], [parts[n] for n in order], strict=True)
    )


def test_the_split_key_makes_the_parts() -> None:
    records = [Record({"label": n % 2, "part": ("train", "dev")[n % 10 == 9]}, "rows.jsonl", n) for n in range(1000)]
    partition = PartitionLabelPrior(kind="label_prior", clients=5, key="label", size_alpha=None)
    held = Counter(
        (owner, record.values["part"])
        for owner, record in zip(partition_records(records, partition, 0, "part"), records, strict=True)
    )
    assert {number for (_, part), number in held.items() if part == "dev"} == {20}
    assert {number for (_, part), number in held.items() if part == "train"} == {180}
    with pytest.raises(UserError, match=r"data.split.key: .* is not one of: train, validation, test"):
        partition_records([Record({"label": 1, "part": "tset"}, "rows.jsonl", 0)] * 20, partition, 0, "part")
