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


def in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as any process has them that has read them: in the order of their names, each one contiguous.

    Sums over tensors, products, random draws and messages follow how they lie in memory, so that must not depend on
    whether they were computed here, or read from a checkpoint or a message.

    Args:
        tensors: named tensors.

    Returns:
        The same values.
    """
    return {name: tensors[name].contiguous() for name in sorted(tensors)}
