"""What is received is checked before it is used: names, shapes, number format, finite values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def check_tensors(received: Mapping[str, Tensor], reference: Mapping[str, Tensor], what: str) -> None:
    """Compare received tensors with the adapter they claim to belong to.

    Args:
        received: tensors from outside.
        reference: the adapter.
        what: whose tensors they are, for the message.

    Raises:
        ValueError: for missing or surplus names, other shapes, integers, or numbers that are not finite.
    """
    if received.keys() != reference.keys():
        odd = sorted(received.keys() ^ reference.keys())
        raise ValueError(f"{what}: tensor names differ from the adapter's, e.g. {odd[0]!r}")
    for name, value in received.items():
        if value.shape != reference[name].shape:
            raise ValueError(f"{what}: {name} has shape {list(value.shape)}, expected {list(reference[name].shape)}")
        if not value.is_floating_point():
            raise ValueError(f"{what}: {name} holds {value.dtype}, expected a floating-point format")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{what}: {name} holds numbers that are not finite")
