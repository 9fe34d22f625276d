"""The runtime of several processes: clients are dealt to processes, and sums or updates come together in the first.

Every process runs the algorithm's step on updates from here. Where the algorithm folds them, each process folds its own
clients' and the sums are all-reduced: no update travels. Where it iterates over them, the first process gets every
client's update, in the plan's order, and the others leave the step as soon as theirs are delivered.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fedloom.aggregation import Accumulator, Algorithm, RejectedUpdate, Update
from fedloom.aggregation.folding import Folded
from fedloom.runtime.base import RoundPlan
from fedloom.runtime.in_process import InProcessRuntime
from fedloom.runtime.update_message import largest_update, pack_update, read_report, report_values, unpack_update
from fedloom.wire.messages import pack_message, unpack_message

if TYPE_CHECKING:
    # torch.distributed is for those who are given a group.
    from fedloom.runtime.process_group import ProcessGroup


class Delivered(Exception):
    """Raised out of an algorithm's step in a process that has no further part in it."""


class DistributedRuntime:
    """Trains a plan's clients in several processes; see `Runtime`.

    Args:
        in_process: trains the clients that this process is dealt.
        group: the processes.
    """

    def __init__(self, in_process: InProcessRuntime, group: ProcessGroup) -> None:
        self.in_process = in_process
        self.group = group

    def train(self, plan: RoundPlan, broadcast: Mapping[str, Tensor], algorithm: Algorithm) -> SharedUpdates:
        """Tell the other processes of a round; see `Runtime`."""
        self.group.tell({"do": "train", "plan": vars(plan)}, broadcast)
        return self.follow(plan, broadcast, algorithm)

    def follow(self, plan: RoundPlan, broadcast: Mapping[str, Tensor], algorithm: Algorithm) -> SharedUpdates:
        """The updates of a round that the first process has told of.

        Args:
            plan: the round.
            broadcast: the adapter, and what the algorithm sends beside it.
            algorithm: whose clients' half says how they train.

        Returns:
            The updates; nothing is trained before they are folded or iterated over.
        """
        return SharedUpdates(self.in_process, self.group, plan, broadcast, algorithm)


class SharedUpdates:
    """A round's updates where they are: each with the process that trained its client; see `MadeTogether`."""

    def __init__(
        self,
        in_process: InProcessRuntime,
        group: ProcessGroup,
        plan: RoundPlan,
        broadcast: Mapping[str, Tensor],
        algorithm: Algorithm,
    ) -> None:
        self._group = group
        self._plan = plan
        self._broadcast = broadcast
        loads = [in_process.load_of(plan, client) for client in plan.clients]
        self._owners = deal(loads, group.size)
        self.process_seconds: list[float] = []
        self._own = in_process.train_some(plan, self._clients_of(group.rank), broadcast, algorithm)

    def fold(self, into: Accumulator) -> Folded:
        """Fold the clients' updates where they were trained, and add up the sums; see `Foldable`."""

        def work() -> bytes:
            began, reports, rejected = time.perf_counter(), [], {}
            for update in self._own:
                try:
                    into.add(update)
                except RejectedUpdate as rejection:
                    rejected[update.client] = str(rejection)
                reports.append(report_values(update))
            return pack_message({"reports": reports, "rejected": rejected, "seconds": time.perf_counter() - began})

        folded = self._folded(self._group.exchange(work))
        self._group.add_up(into.sums)
        return folded

    def __iter__(self) -> Iterator[Update]:
        """Every client's update, in the plan's order, in the first process; see `Delivered` for the others."""
        own: dict[str, Update] = {}

        def work() -> bytes:
            began = time.perf_counter()
            own.update((update.client, update) for update in self._own)
            return pack_message({"seconds": time.perf_counter() - began})

        for rank, part in enumerate(self._group.exchange(work)):
            values, _ = unpack_message(part, f"report of process {rank}")
            self.process_seconds.append(float(values["seconds"]))
        if not self._group.leads:
            for update in own.values():
                self._group.send(pack_update(update))
            raise Delivered
        places = iter(range(len(self._owners)))
        try:
            for place in places:
                yield self._fetch(place, own)
        finally:
            # Whoever stops listening must not leave the others waiting.
            for place in places:
                self._fetch(place, own)

    def _fetch(self, place: int, own: dict[str, Update]) -> Update:
        client, owner = self._plan.clients[place], self._owners[place]
        if owner == self._group.rank:
            return own.pop(client)
        message = self._group.receive(owner, largest_update(self._broadcast), f"update of client {client!r}")
        return unpack_update(message, client)

    def _folded(self, parts: Sequence[bytes]) -> Folded:
        reports: dict[str, Update] = {}
        rejected: dict[str, str] = {}
        for rank, part in enumerate(parts):
            values, _ = unpack_message(part, f"reports of process {rank}")
            self.process_seconds.append(float(values["seconds"]))
            rejected.update(values["rejected"])
            for client, report in zip(self._clients_of(rank), values["reports"], strict=True):
                reports[client] = read_report(report, client)
        return Folded([reports[client] for client in self._plan.clients], rejected)

    def _clients_of(self, rank: int) -> list[str]:
        return [client for client, owner in zip(self._plan.clients, self._owners, strict=True) if owner == rank]


def deal(loads: Sequence[float], processes: int) -> list[int]:
    """Share out work: the largest piece first, each to whoever has least so far.

    Args:
        loads: of each piece.
        processes: that share them.

    Returns:
        The rank of each piece's process; the same in every process.
    """
    owners = [0] * len(loads)
    heap = [(0.0, rank) for rank in range(processes)]
    for piece in sorted(range(len(loads)), key=lambda piece: -loads[piece]):
        load, owner = heapq.heappop(heap)
        owners[piece] = owner
        heapq.heappush(heap, (load + loads[piece], owner))
    return owners
