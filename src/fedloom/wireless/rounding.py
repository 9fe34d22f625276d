"""From rates to whole units: attention heads and neurons are kept or left out, never halved."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedloom.wireless.allocation import Allocation, allocation_of
from fedloom.wireless.blocks import bandwidth_block
from fedloom.wireless.channel import Values
from fedloom.wireless.problem import RoundProblem

# A kept count of 5.0000000001 is five units and rounding.
_ROUNDING = 1e-9


def with_whole_units(problem: RoundProblem, prune_rate: Values, units: int) -> Allocation:
    """Round the kept count of units up, so that no rate rises, and give out the bandwidth anew.

    Args:
        problem: the round.
        prune_rate: [K] rates within its bounds.
        units: what a client can leave out, at least 1.

    Returns:
        Rates that are multiples of 1/units, at most the given ones, with their best bandwidths.
    """
    kept = np.minimum(np.ceil((1.0 - prune_rate) * units - _ROUNDING), units)
    rates: Values = 1.0 - kept / units
    return allocation_of(problem, rates, bandwidth_block(problem, rates)[1])


def as_carried_out(
    problem: RoundProblem,
    planned: Allocation,
    compute_s: ArrayLike,
    upload_bits: ArrayLike,
    equal_bandwidth: bool = False,
) -> tuple[RoundProblem, Allocation]:
    """What a planned round comes to, once it is known what clients compute and send at their rates.

    The plan takes both to shrink by (1 - rho). They shrink by less where whole units are kept, or where a part of the
    model or of the update belongs to no unit; then bandwidth is given out anew.

    Args:
        problem: the round, as it was planned.
        planned: the rates, and bandwidths.
        compute_s: [K] seconds of computing at these rates.
        upload_bits: [K] bits sent at these rates.
        equal_bandwidth: whether the scheme leaves bandwidths as they are.

    Returns:
        The problem in which (1 - rho_k) c_k and (1 - rho_k) S_k are what was given, and its allocation.
    """
    kept = 1.0 - planned.prune_rate
    actual = problem.with_values(compute_s=np.asarray(compute_s) / kept, upload_bits=np.asarray(upload_bits) / kept)
    bandwidth = planned.bandwidth_hz if equal_bandwidth else bandwidth_block(actual, planned.prune_rate)[1]
    return actual, allocation_of(actual, planned.prune_rate, bandwidth)
