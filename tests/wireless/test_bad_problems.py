"""Every mistake in a problem ends in one error that names field and index."""

import re

import numpy as np
import pytest

from fedloom.errors import UserError
from fedloom.wireless import alternate, baseline, solve, solve_total
from tests.wireless.problems import worked_example


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"channel_gain_hz": [1e8, -1.0, 1e9]}, "channel_gain_hz[1]: -1 is not a number above 0"),
        ({"channel_gain_hz": [1e8, 1e9, np.nan]}, "channel_gain_hz[2]: nan is not a finite number"),
        ({"channel_gain_hz": [0.0, 1e9, 1e9]}, "channel_gain_hz[0]: 0 is not a number above 0"),
        ({"fixed_latency_s": [0.0, -2.0, 0.0]}, "fixed_latency_s[1]: -2 is not a number from 0 up"),
        ({"compute_s": [1.0, np.inf, 1.0]}, "compute_s[1]: inf is not a finite number"),
        ({"compute_s": ["a", "b", "c"]}, "compute_s: ['a', 'b', 'c'] holds something else than numbers"),
        ({"upload_bits": [1e6, 1e6]}, "upload_bits: has 2 clients, but channel_gain_hz has 3"),
        ({"upload_bits": 0.0}, "upload_bits: 0 is not a number above 0"),
        ({"weights": [[0.2, 0.3, 0.5]]}, "weights: has the shape [1, 3]; needs a number, or one for each client"),
        ({"weights": []}, "weights: has the shape [0]"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz: 0 is not a number above 0"),
        ({"bandwidth_hz": [1e6, 1e6]}, "bandwidth_hz: is one number for all clients, not an array of 2"),
        ({"prune_budget": -0.1}, "prune_budget: -0.1 is not a number from 0 up"),
        ({"prune_budget": np.nan}, "prune_budget: nan is not a finite number"),
        ({"max_prune": [0.5, 0.5, 1.0]}, "max_prune[2]: 1 is not a number below 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_problems(changed, told):
    with pytest.raises(UserError, match=re.escape(told)):
        worked_example(**changed)


@pytest.mark.parametrize("method", [solve, alternate])
@pytest.mark.parametrize(
    ("start", "told"),
    [
        ({"prune_rate": [0.1, 0.9, 0.1]}, "prune_rate[1]: 0.9 is not between 0 and max_prune"),
        ({"prune_rate": [0.1, 0.1]}, "prune_rate: has the shape [2], but there are 3 clients"),
        ({"bandwidth_hz": [1e5, 1e5, 0.0]}, "bandwidth_hz[2]: 0 is not above 0"),
        ({"bandwidth_hz": [1e6, 1e6, 1e6]}, "bandwidth_hz: sums to 3e+06, above the 1e+06 Hz there are"),
        ({"bandwidth_hz": [1e5] * 3, "prune_rate": [0.1] * 3}, "bandwidth_hz or prune_rate, not both"),
    ],
    ids=["rate", "rates", "zero", "too-much", "both"],
)
def test_starts(method, start, told):
    with pytest.raises(UserError, match=re.escape(told)):
        method(worked_example(), **start)


def test_names_and_numbers_of_other_calls():
    with pytest.raises(UserError, match=r"scheme: 'alternaton' is not one of.*did you mean 'alternation'"):
        baseline("alternaton", worked_example())
    with pytest.raises(UserError, match="clients: has 1 names, but there are 3 clients"):
        baseline("random_pruning", worked_example(), clients=["ada"])
    with pytest.raises(UserError, match="rounds_unpruned: 0 is not a number above 0"):
        solve_total(worked_example(), rounds_unpruned=0, pruning_cost=1.0)
    with pytest.raises(UserError, match="pruning_cost: -1 is not a number from 0 up"):
        solve_total(worked_example(), rounds_unpruned=100, pruning_cost=-1.0)
