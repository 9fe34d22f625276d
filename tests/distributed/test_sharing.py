"""The parts of a distributed run: dealing, what is refused on arrival, what processes exchange."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation import Update, algorithm
from fedloom.errors import UserError
from fedloom.places import Place, load_under_torchrun, with_processes
from fedloom.recipe import load_recipe
from fedloom.runtime.distributed import deal
from fedloom.runtime.tally import Tally
from fedloom.runtime.update_message import largest_update, pack_update, unpack_update
from fedloom.wire.messages import pack_message, unpack_message

REFERENCE = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
UPDATE = Update(
    "eve", {"a": torch.ones(2, 3), "b": torch.arange(4.0)}, 7, {"loss": 0.5, "tokens": 9}, {"c": torch.ones(1)}
)

METRICS = {"tokens": 9, "label_tokens": 3, "bytes_up": 4, "bytes_down": 5}
NAMES = list(enumerate("bac", start=1))


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 9))
def test_every_client_is_dealt_once_and_evenly(loads: list[int], processes: int) -> None:
    owners = deal(loads, processes)
    shares = [sum(load for load, owner in zip(loads, owners, strict=True) if owner == r) for r in range(processes)]
    assert sum(shares) == sum(loads)
    # Nobody has more than anybody else by more than one piece.
    assert max(shares) - min(shares) <= max(loads, default=0)
    if len(loads) >= processes:
        assert set(owners) == set(range(processes))


def test_an_update_arrives_as_it_was_sent() -> None:
    message = pack_update(UPDATE)
    arrived = unpack_update(message, "eve")
    assert len(message) <= largest_update(REFERENCE)
    assert (arrived.client, arrived.num_examples, arrived.metrics) == ("eve", 7, UPDATE.metrics)
    for sent, got in ((UPDATE.delta, arrived.delta), (UPDATE.extra, arrived.extra)):
        assert sent.keys() == got.keys()
        assert all(torch.equal(sent[name], got[name]) for name in sent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client": "mallory"}, "is of client 'mallory'"),
        ({"num_examples": 0}, "0 is not a number of examples"),
        ({"metrics": {"loss": "low"}}, "metrics must be finite numbers"),
    ],
)
def test_updates_that_are_not_accepted(changes: dict[str, Any], message: str) -> None:
    sent = pack_update(dataclasses.replace(UPDATE, **changes))
    with pytest.raises(ValueError, match=f"client 'eve'.*{message}"):
        unpack_update(sent, "eve")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x" * 40,
        pack_update(UPDATE)[:-1],
        pack_message({"client": "eve"}, {"stray": torch.ones(1)}),
        pack_message({"client": "eve"})[:-4],
        pack_update(UPDATE).replace(b"0.5", b"NaN"),
        (2).to_bytes(8, "little") + b"[]" + pack_message({})[10:],
    ],
)
def test_bytes_that_are_no_update(message: bytes) -> None:
    with pytest.raises(ValueError, match="update of client 'eve'"):
        unpack_update(message, "eve")


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans(), st.none())))
def test_messages_arrive_as_they_were_sent(values: dict[str, Any]) -> None:
    assert unpack_message(pack_message(values), "it") == (values, {})


def test_the_tally_does_not_depend_on_how_updates_are_read() -> None:
    updates = [dataclasses.replace(UPDATE, client=name, metrics={**METRICS, "loss": 0.1 * n}) for n, name in NAMES]
    folded, iterated, fedavg = Tally(), Tally(), algorithm("fedavg")
    one, _ = fedavg.step(REFERENCE, {}, folded.watch(iter(updates)))
    other, _ = fedavg.step(REFERENCE, {}, list(iterated.watch(updates)))
    assert all(torch.equal(one[name], other[name]) for name in one)
    folded.train_seconds = iterated.train_seconds = 0
    assert folded == iterated
    assert list(folded.losses) == ["b", "a", "c"]


SETTLED = """
import os
import sys
import torch
from fedloom.errors import UserError
from fedloom.places import Place
from fedloom.runtime.process_group import ProcessGroup

def settled():
    print("settled", end="", flush=True)
    os._exit(0)

rank = int(sys.argv[1])
with ProcessGroup(Place(rank, 2, rank, 2, sys.argv[2])) as group:
    assert group.exchange(lambda: b"part %d" % rank) == [b"part 0", b"part 1"]

    def fail():
        raise UserError("it is wrong", "mend it")

    for culprit in (0, 1):
        try:
            group.exchange(fail if rank == culprit else lambda: b"well")
        except UserError as error:
            assert (error.message, error.hint) == ("it is wrong", "mend it")
        else:
            raise AssertionError("nobody was told")
    # The same names, in another order.
    sums = {"a": torch.tensor([1.0, 2.0]).double() * 10**rank, "b": torch.tensor(5.0).double() * 10**rank}
    sums = dict(sorted(sums.items(), reverse=rank == 1))
    group.add_up(sums)
    assert sums["a"].tolist() == [11, 22] and sums["b"].tolist() == 55
    if rank == 0:
        group.tell({"do": "this"}, {"x": torch.ones(3)})
        assert group.receive(1, 5, "it") == b"12345"
        try:
            group.receive(1, 4, "it")
        except ValueError as error:
            assert "process 1 announces 5 bytes, accepted are 4" in str(error)
        else:
            raise AssertionError("took more than it accepts")
        settled()
    values, tensors = group.hear()
    assert values == {"do": "this"} and tensors["x"].tolist() == [1, 1, 1]
    group.send(b"12345")
    try:
        group.send(b"12345")
        group.hear()
    except RuntimeError as error:
        assert "lost another process of this run" in str(error), error
        settled()
"""


def test_what_two_processes_exchange(tmp_path: Path) -> None:
    point = (tmp_path / "point").as_uri()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SETTLED, str(rank), point], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=120) for process in running]
    assert [out for out, _ in told] == ["settled", "settled"], told


@pytest.mark.parametrize(
    ("given_", "parts"),
    [
        (["runtime.processes=2"], ["runtime: processes has no effect on kind 'in_process'"]),
        (["runtime.kind=distributed", "runtime.processes=0"], ["runtime.processes: 0 is not a number from 1 up"]),
        (["runtime.kind=distributed", "runtime.device=cuda:0"], ["'cuda:0' names one device"]),
        (["runtime.kind=distibuted"], ["'distibuted' is not one of: in_process, distributed", "mean 'distributed'"]),
    ],
)
def test_runtimes_that_are_refused(given_: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_recipe({}, given_)
    assert all(part in str(error.value) for part in parts), error.value


def test_the_option_and_the_keys_it_stands_for() -> None:
    runtime = load_recipe({"runtime": {"kind": "in_process"}}, with_processes(["runtime.threads=1"], 2)).runtime
    assert (runtime.kind, runtime.processes, runtime.threads) == ("distributed", 2, 1)
    assert with_processes(["runtime.kind=in_process"], None) == ["runtime.kind=in_process"]
    for other in ("runtime.kind=in_process", "runtime.processes=3", "runtime={threads: 1}"):
        with pytest.raises(UserError, match=r"--processes: 2 sets runtime\.kind"):
            with_processes([other], 2)


def test_torchrun_decides_on_the_number_of_processes() -> None:
    place = Place(0, 2, 0, 2, "env://")
    assert load_under_torchrun({"runtime": {"kind": "in_process"}}, [], place).runtime.processes == 2
    assert load_under_torchrun({"runtime": {"kind": "distributed", "processes": 2}}, [], place).runtime.processes == 2
    with pytest.raises(UserError, match=r"runtime\.processes: 3, but torchrun started 2"):
        load_under_torchrun({"runtime": {"kind": "distributed", "processes": 3}}, [], place)
    with pytest.raises(UserError, match=r"--set runtime\.kind: 'in_process', but torchrun"):
        load_under_torchrun({}, ["runtime.kind=in_process"], place)
