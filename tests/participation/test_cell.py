"""A cell's rounds: the worked example's numbers, what is handed out, and what does not depend on the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import UserError
from fedloom.participation import Cell, CellRound, Participation
from fedloom.participation.cell import check_cell
from fedloom.recipe.participation_schema import ParticipationConfig
from fedloom.recipe.wireless_schema import Scheme, WirelessConfig
from fedloom.wireless.plan import NAMES
from tests.participation.populations import SEED, names
from tests.wireless.problems import EXAMPLES, FLOP_PER_TOKEN, SPEEDS

BITS = 9_437_184.0


@dataclass
class HandMade:
    """Work and bits of clients, of which a part belongs to no unit and is never left out."""

    flops: dict[str, float]
    bits: float = BITS
    fixed: float = 0.0

    def flop(self, client: str, rate: float) -> float:
        return self.flops[client] * (self.fixed + (1 - self.fixed) * (1 - rate))

    def upload_bits(self, client: str, rate: float) -> float:
        return self.bits * (self.fixed + (1 - self.fixed) * (1 - rate))

    def download_bits(self, clients: Sequence[str]) -> float:
        return self.bits


def section(**values) -> WirelessConfig:
    return WirelessConfig.model_validate(values)


@pytest.fixture
def example(tmp_path):
    """The worked example as a measured cell: three clients at 0.5, 0.3 and 0.1 km, all devices alike."""
    loss = 128.1 + 37.6 * np.log10([0.5, 0.3, 0.1])
    gains = 10 * np.log10([0.8, 1.0, 1.2]) - loss
    trace = tmp_path / "gains.csv"
    rows = "".join(f"0,{client},{gain!r}\n" for client, gain in zip("abc", gains.tolist(), strict=True))
    trace.write_text(f"round,client,gain_db\n{rows}")
    network = {
        "cell": {"bandwidth_hz": 1e6},
        "trace": str(trace),
        "devices": [{"name": "one", "flop_per_second": {"low": 1e12, "high": 1e12}}],
    }
    # The example's devices differ in speed: here the work does, as if each were as fast as the slowest.
    work = (EXAMPLES * 128 * FLOP_PER_TOKEN / SPEEDS * 1e12).tolist()
    return network, HandMade(dict(zip("abc", work, strict=True))), dict(zip("abc", EXAMPLES.tolist(), strict=True))


@pytest.mark.parametrize(
    ("scheme", "seconds"),
    [
        ("jcpba", 8.8317328202),
        ("no_pruning_equal_bandwidth", 17.370207),
        ("no_pruning_optimal_bandwidth", 15.629195),
        ("uniform_pruning_equal_bandwidth", 12.483694),
        ("uniform_pruning_optimal_bandwidth", 11.264985),
        ("optimal_pruning_equal_bandwidth", 8.936421),
        ("alternation", 8.936421),
    ],
)
def test_the_worked_example_is_a_round_of_training(example, scheme, seconds):
    network, load, examples = example
    cell = Cell(section(scheme=scheme, scenario=network), SEED, examples.__getitem__)
    times = cell.round(1, list("abc"), load)
    assert max(one.finish for one in times.values()) == pytest.approx(seconds, rel=1e-7)
    assert [one.receive for one in times.values()] == pytest.approx([1.081829642] * 3, rel=1e-8)
    if scheme == "jcpba":
        assert [one.prune_rate for one in times.values()] == pytest.approx([0.573729, 0.361268, 0.153748], abs=1e-6)
        handed = [one.bandwidth_hz for one in times.values()]
        assert handed == pytest.approx([198832.156, 330461.798, 470706.047], rel=1e-6)


def test_schemes_are_those_of_the_planner():
    assert set(get_args(Scheme)) == set(NAMES)


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(get_args(Scheme)),
    count=st.integers(1, 12),
    number=st.integers(1, 1000),
    fixed=st.sampled_from([0.0, 0.4, 1.0]),
    budget=st.sampled_from([0.0, 0.1, 0.3, 0.9]),
)
def test_what_is_handed_out_adds_up(scheme, count, number, fixed, budget):
    clients = names(count)
    examples = {client: 10 + 7 * place for place, client in enumerate(clients)}
    load = HandMade({client: 1e11 * examples[client] for client in clients}, fixed=fixed)
    # A budget has no effect where nothing is pruned.
    config = section(scheme=scheme, **({} if scheme.startswith("no_pruning") else {"budget": budget}))
    times = Cell(config, SEED, examples.__getitem__).round(number, clients, load)
    assert sum(one.bandwidth_hz for one in times.values()) == pytest.approx(20e6, rel=1e-9)
    rates = np.array([one.prune_rate for one in times.values()])
    weights = np.array(list(examples.values())) / sum(examples.values())
    assert np.all((rates >= 0) & (rates <= 0.8))
    assert weights @ rates <= (budget if config.prunes else 0.0) + 1e-9
    # Whatever the plan took to shrink: what is told is what the client really computes and sends.
    for client, one in times.items():
        speed = load.flop(client, 0.0) / (one.compute / (fixed + (1 - fixed) * (1 - one.prune_rate)))
        assert 1e12 * (1 - 1e-9) <= speed <= 4e12 * (1 + 1e-9)
    finish = [one.finish for one in times.values()]
    if "optimal_bandwidth" in scheme or scheme in {"jcpba", "random_pruning", "alternation"}:
        assert min(finish) == pytest.approx(max(finish), rel=1e-6)


def test_a_client_has_its_channel_whoever_else_takes_part():
    clients = names(6)
    load = HandMade(dict.fromkeys(clients, 1e12))
    cell = Cell(section(scheme="no_pruning_equal_bandwidth"), SEED, lambda _: 10)

    together, pair = cell.round(3, clients, load), cell.round(3, clients[1:3], load)
    assert [together[client].compute for client in clients[1:3]] == [one.compute for one in pair.values()]
    # With the share that it has among six it sends as long as it does alone.
    assert cell.alone(3, clients[1], 6, load).send == pytest.approx(together[clients[1]].send, rel=1e-12)
    assert together != cell.round(4, clients, load)
    assert together != Cell(cell.config, SEED + 1, lambda _: 10).round(3, clients, load)
    once = Cell(section(scheme="no_pruning_equal_bandwidth", channels="once"), SEED, lambda _: 10)
    assert once.round(9, clients, load) == cell.round(1, clients, load)


def drawing(**values) -> tuple[Participation, Cell, HandMade]:
    config, clients = ParticipationConfig.model_validate(values), names(20)
    load = HandMade(dict.fromkeys(clients, 1e12))
    cell = Cell(config.wireless, SEED, lambda _: 10)
    examples = np.ones(20, dtype=np.int64)
    return Participation(config, 5, SEED, clients, lambda: examples, CellRound(cell, load)), cell, load


def test_of_more_clients_drawn_the_first_count_and_late_ones_have_used_the_band():
    found, cell, load = drawing(wireless={"scheme": "no_pruning_equal_bandwidth"}, over_selection=1.6)
    for number in range(1, 10):
        participants = found.round(number)
        drawn = sorted([*participants.clients, *participants.missing])
        finish = {client: one.finish for client, one in cell.round(number, drawn, load).items()}
        assert len(drawn) == 8
        assert set(participants.clients) == set(sorted(drawn, key=finish.get)[:5])
        assert participants.seconds == max(finish[client] for client in participants.clients)


def test_a_deadline_ends_rounds_and_drop_outs_keep_their_share():
    found, cell, load = drawing(wireless={"scheme": "no_pruning_equal_bandwidth"}, deadline=2.0, drop_out=0.2)
    kinds = set()
    for number in range(1, 20):
        participants = found.round(number)
        drawn = sorted([*participants.clients, *participants.missing])
        finish = {client: one.finish for client, one in cell.round(number, drawn, load).items()}
        answering = {client for client in drawn if participants.answers(client)}
        assert set(participants.clients) == {client for client in answering if finish[client] <= 2.0}
        assert participants.seconds == (2.0 if participants.missing else max(finish.values()))
        kinds.add(len(participants.missing))
    assert len(kinds) > 2


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"scenario": "defualt"}, ["wireless.scenario: no such file: defualt", "'default'"]),
        ({"scenario": {"fading": {"kind": "none"}}, "channels": "once"}, ["channels: once has no effect"]),
    ],
)
def test_what_can_be_told_once_clients_are_known(values, parts):
    with pytest.raises(UserError) as told:
        check_cell(section(**values), names(3))
    assert all(part in str(told.value) for part in parts), told.value


def test_a_trace_has_to_know_every_client(example):
    network, _, _ = example
    with pytest.raises(UserError, match=r"wireless.scenario: the trace .* has no client 'd'"):
        check_cell(section(scenario=network), list("abd"))
