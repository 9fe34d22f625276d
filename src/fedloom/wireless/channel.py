"""The radio channel: path loss, fading, the rate of a share of bandwidth, and the bandwidth that a rate needs.

The standard model of the sister works (arXiv 2205.14271, 2511.04653); the equations of arXiv 2602.01024 are not public.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedloom.errors import UserError

Values = NDArray[np.float64]

LN2 = float(np.log(2.0))
# Below this signal-to-noise ratio the rate's derivative is summed as a series: its two terms cancel.
_SMALL_RATIO = 1e-2
_SERIES_TERMS = 9
# Newton's method on the inverse rate is done after four steps from any rate; the others are for rounding.
_NEWTON_STEPS = 6


def decibels_to_ratio(decibels: ArrayLike) -> Values:
    """A ratio of powers from decibels (of milliwatts, milliwatts)."""
    return np.power(10.0, np.asarray(decibels, dtype=np.float64) / 10.0)


def path_loss_db(distance_km: ArrayLike, at_one_km_db: float = 128.1, decade_db: float = 37.6) -> Values:
    """Loss of power over a distance; the defaults are those of macro cells (3GPP TR 36.814, also in arXiv 2205.14271).

    Args:
        distance_km: positive, any shape.
        at_one_km_db: loss at one kilometre.
        decade_db: further loss for every factor of ten.

    Returns:
        Decibels, of the distances' shape.
    """
    return at_one_km_db + decade_db * np.log10(np.asarray(distance_km, dtype=np.float64))


def rate(bandwidth_hz: ArrayLike, gain_hz: ArrayLike) -> Values:
    """Shannon's rate b log2(1 + g/b) of a share of bandwidth.

    Args:
        bandwidth_hz: b, positive.
        gain_hz: g, received power over the noise's density, in Hz; positive.

    Returns:
        Bits per second, of the broadcast shape.
    """
    bandwidth = np.asarray(bandwidth_hz, dtype=np.float64)
    return bandwidth * np.log1p(np.asarray(gain_hz) / bandwidth) / LN2


def rate_slope(bandwidth_hz: ArrayLike, gain_hz: ArrayLike) -> Values:
    """The derivative of `rate` by bandwidth, log2(1+x) - x / ((1+x) ln 2) with x = g/b.

    Args:
        bandwidth_hz: b, positive.
        gain_hz: g, in Hz.

    Returns:
        Bits per second and Hz, positive, to rounding also where g/b is tiny.
    """
    ratio = np.asarray(gain_hz, dtype=np.float64) / np.asarray(bandwidth_hz, dtype=np.float64)
    slope = np.log1p(ratio) - ratio / (1.0 + ratio)
    small = ratio < _SMALL_RATIO
    if np.any(small):
        # sum over n >= 2 of (-1)^n (n-1)/n x^n, by Horner's rule.
        x = np.minimum(ratio, _SMALL_RATIO)
        series = np.zeros_like(x)
        for n in range(_SERIES_TERMS, 1, -1):
            series = (n - 1) / n - x * series
        slope = np.where(small, x * x * series, slope)
    return slope / LN2


def bandwidth_for(bits_per_second: ArrayLike, gain_hz: ArrayLike) -> Values:
    """The bandwidth at which the rate is as wanted, infinite where no bandwidth suffices.

    With phi = r ln2 / g it is b = -r ln2 / (W_{-1}(-phi e^{-phi}) + phi), W_{-1} the lower branch of Lambert's W. Here
    z = ln(1 + g/b) is found instead, the root of ln((e^z - 1)/z) = -ln phi: its derivative lies between 1/2 and 1, so
    Newton's method needs four steps from z = L + ln(1+L), L = -ln phi, at any gain.

    Args:
        bits_per_second: r, at least 0.
        gain_hz: g, in Hz.

    Returns:
        Hz, of the broadcast shape: 0 for a rate of 0, infinite for rates of g / ln2 (the channel's capacity) or more.
    """
    gain = np.asarray(gain_hz, dtype=np.float64)
    phi = np.asarray(bits_per_second, dtype=np.float64) * LN2 / gain
    within = (phi > 0.0) & (phi < 1.0)
    wanted = -np.log(np.where(within, phi, 0.5))
    z = wanted + np.log1p(wanted)
    for _ in range(_NEWTON_STEPS):
        decay = -np.expm1(-z)
        step = (z + np.log(decay / z) - wanted) / (1.0 / decay - 1.0 / z)
        # Rounding may step to or over 0 where phi is within rounding of 1.
        step = np.minimum(step, 0.5 * z)
        z = z - step
        if np.all(np.abs(step) <= 4e-16 * z):
            break
    return np.where(within, gain / np.expm1(z), np.where(phi >= 1.0, np.inf, 0.0))


def required_bandwidth(bits_per_second: ArrayLike, gain_hz: ArrayLike) -> Values:
    """The bandwidth at which the rate is as wanted, for rates that have to be possible.

    Args:
        bits_per_second: r, at least 0.
        gain_hz: g, in Hz.

    Returns:
        Hz, finite, of the broadcast shape.

    Raises:
        UserError: naming the first rate at or beyond the channel's capacity g / ln2, with its index.
    """
    found = bandwidth_for(bits_per_second, gain_hz)
    beyond = np.flatnonzero(~np.isfinite(found))
    if beyond.size:
        index = int(beyond[0])
        wanted = np.broadcast_to(np.asarray(bits_per_second, dtype=np.float64), found.shape).flat[index]
        capacity = np.broadcast_to(np.asarray(gain_hz, dtype=np.float64), found.shape).flat[index] / LN2
        raise UserError(
            f"bits_per_second[{index}]: {wanted:g} is not below the channel's capacity of {capacity:g} bit/s, which no "
            "bandwidth exceeds"
        )
    return found


def broadcast_seconds(bits: float, bandwidth_hz: float, power_w: float, gains: Values, noise_w_per_hz: float) -> float:
    """How long a broadcast to all clients takes: at the rate of the one who hears worst.

    Args:
        bits: what is sent.
        bandwidth_hz: the whole band.
        power_w: of the base station.
        gains: [clients], received over sent power.
        noise_w_per_hz: the noise's density.

    Returns:
        Seconds, a_k = S / (B log2(1 + P_bs min_k h_k / (N0 B))).
    """
    return bits / float(rate(bandwidth_hz, power_w * gains.min() / noise_w_per_hz))
