"""FedBuff's schedule: worked cases with equal durations, invariants for any, and a second, slower simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import UserError
from fedloom.participation import AsynchronousSchedule
from fedloom.randomness import numpy_generator
from fedloom.recipe.participation_schema import ParticipationConfig
from tests.participation.populations import names


def equal(client: str, start: int) -> float:
    return 10.0


def schedule(concurrency: int, buffer_size: int, duration=equal, count: int = 40, seed: int = 3):
    return AsynchronousSchedule(seed, names(count), concurrency, buffer_size, duration)


def varied(seed: int):
    return lambda client, start: float(numpy_generator(seed, "test", start, client).uniform(1, 10))


def test_equally_fast_clients_and_a_buffer_for_all_of_them_are_synchronous_rounds():
    rounds = schedule(8, 8)
    for number in range(1, 20):
        flush = rounds.flush(number)
        assert flush.seconds == 10.0 * number
        assert {arrival.started_from for arrival in flush.arrivals} == {number - 1}
        assert rounds.oldest_needed(number) == number


def test_equally_fast_clients_fill_two_buffers_at_once():
    twice = schedule(8, 4)
    staleness = [
        {number - 1 - arrival.started_from for arrival in twice.flush(number).arrivals} for number in range(1, 9)
    ]
    assert staleness == [{0}, {1}] * 4
    assert [twice.flush(number).seconds for number in range(1, 7)] == [10, 10, 20, 20, 30, 30]
    assert [twice.oldest_needed(number) for number in range(7)] == [0, 0, 2, 2, 4, 4, 6]


def test_a_slow_client_arrives_stale():
    first: list[str] = []

    def duration(client: str, start: int) -> float:
        first.append(client)
        return 35.0 if client == first[0] and start == 1 else 10.0

    slow = schedule(3, 2, duration)
    flushes = [slow.flush(number) for number in range(1, 6)]
    # The two fast ones arrive at 10, 20, 30 and 40, the slow one at 35, and whoever replaces it at 45.
    assert [flush.seconds for flush in flushes] == [10, 20, 30, 40, 45]
    assert [flush.oldest_needed for flush in flushes] == [0, 0, 0, 3, 4]
    assert first[0] in {arrival.client for arrival in flushes[3].arrivals if arrival.started_from == 0}


@pytest.mark.parametrize(("concurrency", "buffer_size"), [(1, 1), (3, 1), (3, 5), (6, 6), (10, 4)])
def test_a_slower_simulation_finds_the_same(concurrency, buffer_size):
    seed, count, clients, duration = 5, 16, names(16), varied(5)
    found = schedule(concurrency, buffer_size, duration, count, seed)
    version, now, starts = 0, 0.0, 0
    flying: dict[str, tuple[float, int]] = {}
    buffer: dict[str, int] = {}
    for _ in range(40 * buffer_size):
        while len(flying) < concurrency:
            starts += 1
            draws = numpy_generator(seed, "asynchronous_clients", starts)
            free = set(clients) - set(flying) - set(buffer)
            client = next(one for one in (clients[draws.integers(count)] for _ in range(9999)) if one in free)
            flying[client] = (now + duration(client, starts), version)
        client = min(flying, key=lambda one: flying[one])
        now, buffer[client] = flying.pop(client)
        if len(buffer) == buffer_size:
            version += 1
            flush = found.flush(version)
            assert dict(flush.arrivals) == buffer
            assert flush.seconds == now
            assert flush.oldest_needed == min([started for _, started in flying.values()], default=version)
            buffer = {}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    concurrency=st.integers(1, 8),
    buffer_size=st.integers(1, 8),
    spare=st.integers(0, 10),
    ties=st.booleans(),
)
def test_whatever_durations_are_the_schedule_is_sound(seed, concurrency, buffer_size, spare, ties):
    count, flushes = concurrency + buffer_size + spare, 25

    def duration(client: str, start: int) -> float:
        drawn = varied(seed)(client, start)
        return float(np.ceil(drawn / 4)) if ties else drawn

    found = schedule(concurrency, buffer_size, duration, count, seed)
    flushed = [found.flush(number) for number in range(1, flushes + 1)]
    back_from: dict[str, int] = {}
    for number, flush in enumerate(flushed, start=1):
        clients = [arrival.client for arrival in flush.arrivals]
        assert len(clients) == buffer_size
        assert clients == sorted(set(clients))
        for arrival in flush.arrivals:
            assert arrival.started_from <= number - 1
            # Nobody starts again before the buffer that holds its update is flushed.
            assert arrival.started_from >= back_from.get(arrival.client, 0)
            back_from[arrival.client] = number
        later = [one.started_from for after in flushed[number:] for one in after.arrivals]
        assert all(started >= flush.oldest_needed for started in later)
        assert flush.oldest_needed <= number
        # Nobody takes longer than 10 s, so by then everybody in flight after this flush has arrived.
        if flushed[-1].seconds > flush.seconds + 10:
            assert flush.oldest_needed == min([number, *later])
    times = [flush.seconds for flush in flushed]
    assert times == sorted(times)
    # Replayed from the start, in another order, and asked for twice.
    again = schedule(concurrency, buffer_size, duration, count, seed)
    assert again.flush(flushes) == flushed[-1]
    assert [again.flush(number) for number in range(1, flushes + 1)] == flushed


def test_everybody_starts_equally_often():
    starts: dict[str, int] = dict.fromkeys(names(10), 0)

    def duration(client: str, start: int) -> float:
        starts[client] += 1
        return varied(1)(client, start)

    schedule(3, 2, duration, 10).flush(2000)
    total = sum(starts.values())
    # Without replacement counts spread less than independent draws would.
    assert all(abs(count / total - 0.1) < 4.5 * (0.1 * 0.9 / total) ** 0.5 for count in starts.values())


def test_too_few_clients_to_draw_from():
    schedule(6, 4, count=10)
    with pytest.raises(UserError, match=r"6 clients in flight and a buffer of 5 need 11 .*, and there are 10$"):
        schedule(6, 5, count=10)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({}, "federation.participation.clock: is required"),
        ({"clock": {}, "drop_out": 0.1}, "federation.participation.drop_out has no effect"),
        ({"clock": {}, "deadline": 3.0}, "federation.participation.deadline has no effect"),
        ({"clock": {}, "sampling": "examples"}, "federation.participation.sampling has no effect"),
    ],
)
def test_options_of_synchronous_rounds(section, told):
    with pytest.raises(ValueError, match=told):
        ParticipationConfig.model_validate(section).check_asynchronous()
    ParticipationConfig.model_validate({"clock": {"spread": 1.0}}).check_asynchronous()
