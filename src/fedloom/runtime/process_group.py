"""The processes of a distributed run: the first decides, all compute, and bytes and sums are what they exchange.

Only JSON, safetensors and sums of fp64 numbers travel; torch.distributed's collectives of objects, which pickle, are
not used. On GPUs sums are added up by NCCL, everything else travels by gloo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fedloom.errors import ProcessLost, UserError, disk_error
from fedloom.places import Place
from fedloom.wire.messages import pack_message, unpack_message

# Others may be at work for as long as a round takes. A process that dies closes its connections, and whoever started
# the processes ends the rest: no clock is needed to notice.
PATIENCE = timedelta(days=30)
DONE, FAILED = b"+", b"-"


class ProcessGroup:
    """The processes of one run; every method is called by all of them at the same point, except send and receive.

    Args:
        place: which of the processes this one is.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.rank, self.size = place.rank, place.size
        # Where sums are added up; the session moves it to its GPU.
        self.device = torch.device("cpu")
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        with _lost_is_told():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if nccl else "gloo",
                init_method=place.meeting_point,
                rank=place.rank,
                world_size=place.size,
                timeout=PATIENCE,
            )

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides, writes and speaks."""
        return self.rank == 0

    def tell(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Tell all other processes something; called by the first one while the others `hear`.

        Args:
            values: what JSON can hold.
            tensors: on the CPU.
        """
        message = _as_tensor(pack_message(values, tensors))
        with _lost_is_told():
            dist.broadcast(torch.tensor([len(message)]), 0)
            dist.broadcast(message, 0)

    def hear(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Wait for what the first process tells.

        Returns:
            Its values and tensors.
        """
        length = torch.zeros(1, dtype=torch.int64)
        with _lost_is_told():
            dist.broadcast(length, 0)
            message = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(message, 0)
        return unpack_message(message.numpy().tobytes(), "message of process 0")

    def exchange(self, work: Callable[[], bytes]) -> list[bytes]:
        """Do one's part, and learn what came of everybody's.

        Args:
            work: this process's part.

        Returns:
            The bytes that each process's part came to, by rank.

        Raises:
            UserError: in every process, where one of them met a user's mistake.
        """
        own: UserError | None = None
        try:
            mine = DONE + work()
        except UserError as error:
            own = error
        except OSError as error:
            own = disk_error(error)
            if own is None:
                raise
        if own is not None:
            mine = FAILED + pack_message({"message": own.message, "hint": own.hint})
        parts = self._gather(mine)
        for rank, part in enumerate(parts):
            if part.startswith(FAILED):
                if own is not None and rank == self.rank:
                    raise own
                values, _ = unpack_message(part[1:], f"message of process {rank}")
                raise UserError(values["message"], values["hint"])
        return [part[1:] for part in parts]

    def add_up(self, sums: Mapping[str, Tensor]) -> None:
        """Replace every sum by the sum over all processes; the same bits in all of them.

        Args:
            sums: fp64 tensors on the CPU, the same names and shapes in every process; overwritten.
        """
        if not sums:
            return
        # Sorted: the order of names is the only thing in which the processes' sums may differ.
        values = [sums[name] for name in sorted(sums)]
        joined = torch.cat([value.reshape(-1) for value in values]).to(self.device)
        with _lost_is_told():
            dist.all_reduce(joined)
        parts = joined.cpu().split([value.numel() for value in values])
        for value, part in zip(values, parts, strict=True):
            value.copy_(part.view(value.shape))

    def send(self, message: bytes) -> None:
        """Send bytes to the first process, which has to `receive` them.

        Args:
            message: any number of bytes.
        """
        with _lost_is_told():
            dist.send(torch.tensor([len(message)]), 0)
            dist.send(_as_tensor(message), 0)

    def receive(self, rank: int, most: int, what: str) -> bytes:
        """Wait for bytes from another process.

        Args:
            rank: which.
            most: bytes accepted.
            what: is expected, for the message.

        Returns:
            The bytes.

        Raises:
            ValueError: where more are announced; none are taken then.
        """
        length = torch.zeros(1, dtype=torch.int64)
        with _lost_is_told():
            dist.recv(length, rank)
            if not 0 <= int(length) <= most:
                raise ValueError(f"{what}: process {rank} announces {int(length)} bytes, accepted are {most}")
            message = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(message, rank)
        return message.numpy().tobytes()

    def _gather(self, mine: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _lost_is_told():
            dist.all_gather(lengths, torch.tensor([len(mine)]))
            longest = max(int(length) for length in lengths)
            parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(parts, _as_tensor(mine.ljust(longest, b"\0")))
        return [part.numpy().tobytes()[: int(length)] for part, length in zip(parts, lengths, strict=True)]

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After anything unforeseen the others may be in the middle of something else: they notice that this one went.
        if self.leads and (error is None or isinstance(error, UserError | OSError)):
            self.tell({"do": "end"})
        if error is None or isinstance(error, UserError | OSError):
            dist.destroy_process_group()


def _as_tensor(message: bytes) -> Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


@contextmanager
def _lost_is_told() -> Iterator[None]:
    """What torch raises when a connection breaks, as one line."""
    try:
        yield
    except RuntimeError as error:
        # Without the place in torch's sources before it, and the advice after it.
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0]
        raise ProcessLost(f"lost another process of this run: {reason}", hint="go on with --resume") from error
