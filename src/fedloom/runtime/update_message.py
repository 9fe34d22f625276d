"""An update on its way to the process that aggregates, and what is checked when it arrives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedloom.aggregation import Update
from fedloom.wire.messages import pack_message, unpack_message

DELTA, EXTRA = "delta/", "extra/"
# An update is its delta, a few extra tensors of the same sizes, and some numbers.
MOST_ADAPTERS, MOST_NUMBERS = 8, 1 << 20


def pack_update(update: Update) -> bytes:
    """Write an update as a message.

    Args:
        update: a client's update.

    Returns:
        The message.
    """
    tensors = {DELTA + name: value for name, value in update.delta.items()}
    tensors |= {EXTRA + name: value for name, value in update.extra.items()}
    return pack_message(report_values(update), tensors)


def unpack_update(data: bytes, client: str) -> Update:
    """Read a received update; the algorithm that takes it in checks its tensors, and leaves it out if need be.

    Args:
        data: the message.
        client: whose update it must be.

    Returns:
        The update.

    Raises:
        ValueError: where it is not a message, of another client, or holds anything but tensors of its delta, extra
            ones, and finite numbers.
    """
    what = f"update of client {client!r}"
    values, tensors = unpack_message(data, what)
    delta = {name.removeprefix(DELTA): value for name, value in tensors.items() if name.startswith(DELTA)}
    extra = {name.removeprefix(EXTRA): value for name, value in tensors.items() if name.startswith(EXTRA)}
    if len(delta) + len(extra) < len(tensors):
        raise ValueError(f"{what}: holds tensors that are neither of its delta nor extra")
    report = read_report(values, client)
    return Update(client, delta, report.num_examples, report.metrics, extra)


def largest_update(reference: Mapping[str, Tensor]) -> int:
    """The most bytes an update's message may have.

    Args:
        reference: the adapter.

    Returns:
        Bytes.
    """
    return MOST_ADAPTERS * sum(4 * value.numel() for value in reference.values()) + MOST_NUMBERS


def report_values(update: Update) -> dict[str, Any]:
    """What an update reports about itself, as JSON holds it.

    Args:
        update: with or without its tensors.

    Returns:
        Its client, number of examples and metrics.
    """
    return {"client": update.client, "num_examples": update.num_examples, "metrics": dict(update.metrics)}


def read_report(values: Mapping[str, Any], client: str) -> Update:
    """Check what an update reports about itself.

    Args:
        values: as `report_values` gives them, received from another process.
        client: whose report it must be.

    Returns:
        The update without its tensors.

    Raises:
        ValueError: for another client, or numbers that are missing, not finite or not numbers.
    """
    if values.get("client") != client:
        raise ValueError(f"update of client {client!r}: is of client {values.get('client')!r}")
    examples, metrics = values.get("num_examples"), values.get("metrics")
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        raise ValueError(f"update of client {client!r}: {examples!r} is not a number of examples")
    if not isinstance(metrics, dict) or not all(_is_finite(value) for value in metrics.values()):
        raise ValueError(f"update of client {client!r}: metrics must be finite numbers, got {metrics!r}")
    return Update(client, {}, examples, metrics)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
