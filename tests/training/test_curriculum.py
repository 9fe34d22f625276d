"""How much of its data a client uses in a round, and which examples these are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.recipe import load_recipe
from fedloom.training.curriculum import batches_used, easiest, share_used

paces = st.sampled_from(["linear", "sqrt", "exp"])
shares = st.floats(0.01, 1)


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        ("linear", [3, 5, 6, 7, 8, 9, 10, 10, 10, 10]),
        ("sqrt", [3, 5, 7, 8, 9, 10, 10, 10, 10, 10]),
        ("exp", [3, 4, 5, 6, 7, 9, 10, 10, 10, 10]),
    ],
)
def test_reference_paces(pace, expected):
    assert [batches_used(pace, 0.3, 0.6, t, 10, 10) for t in range(10)] == expected


def test_the_linear_pace_saves_what_the_formula_says():
    """Batches used over all batches: 1 - full_after (1 - start) / 2."""
    used = np.mean([share_used("linear", 0.6, 0.8, t, 100_000) for t in range(100_000)])
    assert used == pytest.approx(1 - 0.8 * (1 - 0.6) / 2, abs=1e-4)


@given(paces, shares, shares, st.integers(1, 200), st.integers(1, 500))
def test_batches_never_fall_and_are_all_from_the_given_share_of_the_rounds(pace, start, full_after, rounds, batches):
    used = [batches_used(pace, start, full_after, t, rounds, batches) for t in range(rounds)]
    assert used == sorted(used)
    assert used[0] >= 1
    assert all(used[t] == batches for t in range(rounds) if t >= full_after * rounds)
    assert max(used) <= batches


@given(paces, shares, st.integers(1, 100), st.integers(1, 100))
def test_a_start_of_one_is_everything_in_every_round(pace, full_after, rounds, batches):
    assert all(share_used(pace, 1.0, full_after, t, rounds) == 1 for t in range(rounds))


@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=60), shares, st.integers(1, 9))
def test_no_example_that_is_left_out_is_easier_than_one_that_is_used(difficulties, share, batch_size):
    values = np.array(difficulties)
    chosen = easiest(values, share, batch_size)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    others = np.setdiff1d(np.arange(len(values)), chosen)
    assert len(others) == 0 or len(chosen) % batch_size == 0
    hardest = (values[chosen].max(), chosen[values[chosen] == values[chosen].max()].max())
    assert all(hardest < (values[other], other) for other in others)


@given(st.lists(st.floats(0, 9), min_size=1, max_size=40), shares, shares, st.integers(1, 9))
def test_a_larger_share_keeps_what_a_smaller_one_has(difficulties, one, other, batch_size):
    smaller, larger = sorted([one, other])
    values = np.array(difficulties)
    assert set(easiest(values, smaller, batch_size)) <= set(easiest(values, larger, batch_size))


def test_reference_order():
    traces = np.array([0.779625, 0.863325, 0.015328, 2.163296])
    assert [easiest(traces, share, 1).tolist() for share in (0.25, 0.5, 0.75)] == [[2], [0, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("curriculum", "told"),
    [
        ({"difficulty": "fischer"}, "fisher"),
        ({"difficulty": "length", "refresh": 2}, "refresh has no effect on difficulty 'length'"),
        ({"difficulty": {"column": "grade"}, "refresh": 2}, "refresh has no effect on difficulty 'column'"),
        ({"difficulty": {"field": "grade"}}, "difficulty.field: unknown key; allowed here: column"),
        ({"pace": "log"}, "linear"),
        ({"start": 0.0}, "0.0 is not a number above 0"),
        ({"full_after": 1.5}, "1.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_mistakes_are_told(curriculum, told):
    with pytest.raises(Exception, match="curriculum") as caught:
        load_recipe({"local": {"curriculum": curriculum}})
    assert told in str(caught.value) + str(getattr(caught.value, "hint", ""))
