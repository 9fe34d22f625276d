"""Messages between processes: JSON and named tensors in one piece of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fedloom.wire.encoding import encode, in_order

LENGTH_BYTES = 8


def pack_message(values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> bytes:
    """Write a message.

    Args:
        values: what JSON can hold.
        tensors: on the CPU.

    Returns:
        The length of the JSON text, the text, and a safetensors file's content.
    """
    text = json.dumps(values, allow_nan=False).encode()
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, encode(tensors or {})])


def unpack_message(data: bytes, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a message.

    Args:
        data: as received.
        what: whose message it is, for errors.

    Returns:
        Its values and tensors.

    Raises:
        ValueError: where it is not a message.
    """
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    try:
        # Strict JSON: NaN and infinities are refused as any other word would be.
        values = json.loads(data[LENGTH_BYTES:end], parse_constant=_refuse)
        tensors = in_order(safetensors.torch.load(data[end:]))
    except (ValueError, SafetensorError, KeyError) as error:
        raise ValueError(f"{what}: not a message: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{what}: not a message: {type(values).__name__} instead of an object")
    return values, tensors


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number")
