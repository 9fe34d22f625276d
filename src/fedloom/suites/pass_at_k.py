"""pass@k: how likely at least one of k programs passes, from more samples than k."""

from __future__ import annotations

import numpy as np


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate for one problem: 1 - C(samples - passed, k) / C(samples, k).

    Codex (arXiv 2107.03374), equation 1, as the product that its figure 3 computes: no large number is formed.

    Args:
        samples: programs drawn for the problem, at least k.
        passed: how many of them passed.
        k: programs that one would try.

    Returns:
        A probability.
    """
    if not 0 < k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} among {samples} samples is not defined")
    if samples - passed < k:
        return 1.0
    failed = np.arange(samples - passed + 1, samples + 1)
    return float(1.0 - np.prod(1.0 - k / failed))
