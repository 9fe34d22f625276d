"""One round's problem: what every client computes and sends, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from fedloom.errors import UserError
from fedloom.wireless.channel import Values, rate


@dataclass(frozen=True, init=False, eq=False)
class RoundProblem:
    """Minimise the round's latency max_k T_k over pruning rates rho and bandwidths b (problem P1).

    T_k = a_k + (1 - rho_k)(c_k + S_k / r_k(b_k)), r_k(b) = b log2(1 + g_k/b), subject to sum b <= B, b > 0,
    0 <= rho_k <= rho_max_k and sum w_k rho_k <= Gamma. It is our complete model of the problem that arXiv 2602.01024
    names without giving its equations, after Liu et al. (Adaptive network pruning for wireless federated learning,
    WCL 2021), arXiv 2205.14271 and arXiv 2511.04653.

    Args:
        channel_gain_hz: [K] g, received power over the noise's density; positive.
        fixed_latency_s: [K] a, what pruning does not shorten (the broadcast); at least 0.
        compute_s: [K] c, training without pruning; at least 0.
        upload_bits: [K] S, the update without pruning; positive.
        weights: [K] w, of clients in the budget, usually n_k/n; at least 0.
        bandwidth_hz: B, shared by all; positive.
        prune_budget: Gamma, bound of sum w_k rho_k; at least 0.
        max_prune: [K] rho_max, at least 0 and below 1.

    All [K] are float64; scalars stand for the same in every client, at least one is an array.

    Raises:
        UserError: naming field, index and value of what is wrong.
    """

    channel_gain_hz: Values
    fixed_latency_s: Values
    compute_s: Values
    upload_bits: Values
    weights: Values
    max_prune: Values
    bandwidth_hz: float
    prune_budget: float

    def __init__(
        self,
        *,
        channel_gain_hz: ArrayLike,
        fixed_latency_s: ArrayLike,
        compute_s: ArrayLike,
        upload_bits: ArrayLike,
        weights: ArrayLike,
        bandwidth_hz: float,
        prune_budget: float,
        max_prune: ArrayLike,
    ) -> None:
        given = {
            "channel_gain_hz": _numbers("channel_gain_hz", channel_gain_hz, above=0.0),
            "fixed_latency_s": _numbers("fixed_latency_s", fixed_latency_s, at_least=0.0),
            "compute_s": _numbers("compute_s", compute_s, at_least=0.0),
            "upload_bits": _numbers("upload_bits", upload_bits, above=0.0),
            "weights": _numbers("weights", weights, at_least=0.0),
            "max_prune": _numbers("max_prune", max_prune, at_least=0.0, below=1.0),
        }
        clients = next((values.size for values in given.values() if values.ndim), 1)
        for name, values in given.items():
            if values.ndim and values.size != clients:
                first = next(other for other, one in given.items() if one.ndim)
                raise UserError(f"{name}: has {values.size} clients, but {first} has {clients}")
            stored = np.array(np.broadcast_to(values, (clients,)))
            stored.flags.writeable = False
            object.__setattr__(self, name, stored)
        object.__setattr__(self, "bandwidth_hz", _scalar("bandwidth_hz", bandwidth_hz, above=0.0))
        object.__setattr__(self, "prune_budget", _scalar("prune_budget", prune_budget, at_least=0.0))

    @property
    def clients(self) -> int:
        """K, the number of clients."""
        return self.channel_gain_hz.size

    def unpruned_seconds(self, bandwidth_hz: Values) -> Values:
        """Seconds that pruning shortens, c_k + S_k / r_k(b_k).

        Args:
            bandwidth_hz: [K], positive.

        Returns:
            [K].
        """
        return self.compute_s + self.upload_bits / rate(bandwidth_hz, self.channel_gain_hz)

    def client_latency(self, prune_rate: Values, bandwidth_hz: Values) -> Values:
        """The clients' latencies T_k.

        Args:
            prune_rate: [K].
            bandwidth_hz: [K], positive.

        Returns:
            [K] seconds.
        """
        return self.fixed_latency_s + (1.0 - prune_rate) * self.unpruned_seconds(bandwidth_hz)

    def with_values(self, **changed: ArrayLike | float) -> RoundProblem:
        """The same problem with some of its values changed.

        Args:
            changed: arguments of the constructor.

        Returns:
            A checked problem.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return RoundProblem(**{**values, **changed})


def _scalar(name: str, value: float, *, above: float | None = None, at_least: float | None = None) -> float:
    found = _numbers(name, value, above=above, at_least=at_least)
    if found.ndim:
        raise UserError(f"{name}: is one number for all clients, not an array of {found.size}")
    return float(found)


def _numbers(
    name: str,
    value: ArrayLike,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> Values:
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {value!r} holds something else than numbers") from None
    if found.ndim > 1 or not found.size:
        raise UserError(f"{name}: has the shape {list(found.shape)}; needs a number, or one for each client")
    wrong = ~np.isfinite(found)
    wanted = "a finite number"
    if not np.any(wrong) and above is not None:
        wrong, wanted = found <= above, f"a number above {above:g}"
    if not np.any(wrong) and at_least is not None:
        wrong, wanted = found < at_least, f"a number from {at_least:g} up"
    if not np.any(wrong) and below is not None:
        wrong, wanted = found >= below, f"a number below {below:g}"
    if np.any(wrong):
        index = int(np.flatnonzero(wrong)[0])
        place = f"[{index}]" if found.ndim else ""
        raise UserError(f"{name}{place}: {found.flat[index]:g} is not {wanted}")
    return found
