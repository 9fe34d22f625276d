"""Named tensors as bytes, in the safetensors format."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise named tensors.

    Args:
        tensors: on the CPU.

    Returns:
        A safetensors file's content.
    """
    return safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
