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


def decode(content: bytes) -> dict[str, Tensor]:
    """Read what `encode` wrote.

    Args:
        content: a safetensors file's content.

    Returns:
        The tensors.

    Raises:
        ValueError: where the content is not a valid safetensors file.
    """
    try:
        return safetensors.torch.load(content)
    except Exception as error:
        raise ValueError(f"received bytes are not a safetensors file: {error}") from None
