"""Rates and their inverse, at any gain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw

from fedloom.errors import UserError
from fedloom.wireless import channel
from tests.wireless.problems import GAINS


def test_the_gains_of_the_worked_example():
    fading = np.array([0.8, 1.0, 1.2])
    gain = fading * channel.decibels_to_ratio(-channel.path_loss_db([0.5, 0.3, 0.1]))
    noise = float(channel.decibels_to_ratio(-174 - 30))
    assert noise == pytest.approx(3.981071705534986e-21, rel=1e-12)
    assert float(channel.decibels_to_ratio(23 - 30)) == pytest.approx(0.199526231, abs=5e-10)
    np.testing.assert_allclose(channel.decibels_to_ratio(23 - 30) * gain / noise, GAINS, rtol=1e-9)
    seconds = channel.broadcast_seconds(9_437_184, 1e6, 1.0, gain, noise)
    assert seconds == pytest.approx(1.081829642, abs=1e-9)


def test_the_inverse_rate_is_lamberts():
    phi = np.linspace(1e-6, 0.999, 400)
    gain = 3e8
    expected = -phi / (lambertw(-phi * np.exp(-phi), k=-1).real + phi)
    np.testing.assert_allclose(channel.bandwidth_for(phi * gain / np.log(2), gain) / gain, expected, rtol=1e-9)


@given(st.floats(-6.0, 20.0), st.floats(-14.0, 6.0))
def test_the_inverse_rate_inverts_at_any_gain(log_gain, log_ratio):
    """To what rounding of the rate leaves: near the capacity a rate hardly tells its bandwidth."""
    gain, bandwidth = 10.0**log_gain, 10.0 ** (log_gain + log_ratio)
    found = float(channel.bandwidth_for(channel.rate(bandwidth, gain), gain))
    assert found == pytest.approx(bandwidth, rel=1e-12 + 1e-15 * max(1.0, bandwidth / gain))


@given(st.floats(-6.0, 12.0))
def test_the_slope_is_that_of_the_rate(log_ratio):
    """Against a sum that does not cancel: r' = (1/ln2) * integral of t/(1+t)^2 from 0 to x, in a hundred pieces."""
    x = 10.0**log_ratio
    edges = np.concatenate([[0.0], np.geomspace(min(x, 1.0) * 1e-8, x, 2001)])
    nodes, weights = np.polynomial.legendre.leggauss(5)
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (1 + nodes)
    integral = float((half * weights * t / (1 + t) ** 2).sum()) / np.log(2)
    assert float(channel.rate_slope(1.0, x)) == pytest.approx(integral, rel=1e-9)


def test_no_rate_needs_no_bandwidth_and_beyond_the_capacity_none_suffices():
    capacity = 1e6 / np.log(2)
    found = channel.bandwidth_for([0.0, 0.5 * capacity, capacity, 2 * capacity], 1e6)
    assert found[0] == 0.0
    assert np.isfinite(found[1])
    assert np.all(np.isinf(found[2:]))


def test_a_rate_beyond_the_capacity_is_told_with_its_index():
    with pytest.raises(UserError, match=r"bits_per_second\[1\]: 2e\+06 is not below the channel's capacity of 1\.44"):
        channel.required_bandwidth([1e5, 2e6, 3e6], 1e6)
