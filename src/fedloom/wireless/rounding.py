"""From rates to whole units: attention heads and neurons are kept or left out, never halved."""

from __future__ import annotations

import numpy as np

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
