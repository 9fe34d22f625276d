"""Random draws with addresses: every draw is keyed by (seed, purpose, round, client).

Nothing depends on the order of clients, on the cohort size or on the runtime, because no generator is ever shared.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, round_number: int = 0, client: str = "") -> int:
    """A 63-bit seed for one purpose, round and client.

    Args:
        seed: the recipe's seed.
        purpose: what the draw is for, e.g. "batches".
        round_number: the round, 0 where there is none.
        client: the client's name, empty where there is none.

    Returns:
        A non-negative integer that fits a signed 64-bit number.
    """
    address = f"{seed}\x1f{purpose}\x1f{round_number}\x1f{client}".encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, round_number: int = 0, client: str = "") -> np.random.Generator:
    """A NumPy generator for one address (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, purpose, round_number, client))


def torch_generator(seed: int, purpose: str, round_number: int = 0, client: str = "") -> torch.Generator:
    """A CPU torch generator for one address (see `derive_seed`)."""
    # Planning a network draws too, without the seconds that torch takes to import.
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, round_number, client))
