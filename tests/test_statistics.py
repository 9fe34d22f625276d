from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.statistics import gini, quantiles, student_interval, worst_decile

scores = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.7, 0.7, 0.7], 0.0),
        ([5.0], 0.0),
        ([0.0, 0.0, 0.0, 1.0], 0.75),  # one of n has everything: (n - 1) / n
        ([1.0, 2.0, 3.0, 4.0], 0.25),  # 1 to n: (n - 1) / 3n
        (range(1, 101), 0.33),
        ([1.0, 3.0], 0.25),
    ],
)
def test_gini_of_known_distributions(values: list[float], expected: float) -> None:
    assert gini(values) == pytest.approx(expected, abs=1e-12)


def test_gini_where_nothing_is_shared_out() -> None:
    assert gini([0.0, 0.0]) is None


@given(scores)
def test_gini_is_half_the_relative_mean_difference(values: list[float]) -> None:
    x = np.array(values)
    pairs = np.abs(x[:, None] - x[None, :]).sum()
    assert gini(values) == pytest.approx(pairs / (2 * len(x) ** 2 * x.mean()), abs=1e-9)
    assert gini(3 * x) == pytest.approx(gini(x), abs=1e-9)


@pytest.mark.parametrize(("count", "worst"), [(1, 0.0), (10, 0.0), (11, 0.5), (20, 0.5), (30, 1.0)])
def test_worst_decile_is_the_mean_over_a_tenth_at_least_one(count: int, worst: float) -> None:
    assert worst_decile(range(count), higher_is_better=True) == worst
    assert worst_decile(-np.arange(count), higher_is_better=False) == -worst


@pytest.mark.parametrize(
    ("values", "t"),
    [((0.0, 2.0), 12.7062), ((1.0, 2.0, 3.0), 4.3027), ((1.0, 1.0, 2.0, 4.0, 7.0), 2.7764)],  # t(0.975, n - 1), tables
)
def test_interval_is_students(values: tuple[float, ...], t: float) -> None:
    interval = student_interval(values)
    half = t * np.std(values, ddof=1) / np.sqrt(len(values))
    assert interval.mean == np.mean(values)
    assert (interval.low, interval.high) == pytest.approx((interval.mean - half, interval.mean + half), abs=1e-3)


def test_one_value_has_no_interval() -> None:
    interval = student_interval([0.5])
    assert (interval.mean, interval.low, interval.high, interval.holds_zero) == (0.5, None, None, None)


@given(scores)
def test_quantiles_are_values_in_order(values: list[float]) -> None:
    found = list(quantiles(values).values())
    assert found == sorted(found)
    assert set(found) <= set(values)
    assert (found[0], found[-1]) == (min(values), max(values))
