"""pass@k against its definition: the share of all choices of k samples that hold one that passed."""

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.suites.pass_at_k import pass_at_k


@st.composite
def cases(draw: st.DrawFn, most: int) -> tuple[int, int, int]:
    samples = draw(st.integers(1, most))
    return samples, draw(st.integers(0, samples)), draw(st.integers(1, samples))


@given(cases(most=8))
def test_is_the_share_of_choices_that_hold_a_passing_sample(case: tuple[int, int, int]) -> None:
    samples, passed, k = case
    choices = list(combinations(range(samples), k))
    share = sum(any(sample < passed for sample in choice) for choice in choices) / len(choices)
    assert pass_at_k(samples, passed, k) == pytest.approx(share, abs=1e-12)


@given(cases(most=3000))
def test_is_equation_1_in_exact_arithmetic(case: tuple[int, int, int]) -> None:
    samples, passed, k = case
    every = comb(samples, k)
    assert pass_at_k(samples, passed, k) == pytest.approx((every - comb(samples - passed, k)) / every, abs=1e-12)


@given(cases(most=50))
def test_of_one_program_is_the_share_that_passed(case: tuple[int, int, int]) -> None:
    samples, passed, _ = case
    assert pass_at_k(samples, passed, 1) == pytest.approx(passed / samples, abs=1e-12)


@pytest.mark.parametrize(("samples", "passed", "k"), [(1, 0, 2), (1, 2, 1), (3, -1, 1), (3, 1, 0)])
def test_what_is_not_defined_is_refused(samples: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(samples, passed, k)
