"""The simulated clock, and rounds that end by it: deadlines and over-selection."""

import math
import statistics

import pytest

from fedloom.participation import Clock
from fedloom.recipe.participation_schema import ClockConfig, ParticipationConfig
from tests.participation.populations import SEED, names, participation


def clock(tokens: float = 1000.0, down: int = 0, up: int = 0, seed: int = SEED, **section: float) -> Clock:
    return Clock(ClockConfig.model_validate(section), seed, lambda _: tokens, down, up)


def test_without_spread_and_jitter_a_round_is_tokens_over_speed_and_bytes_over_rates():
    exact = clock(
        6000.0,
        down=3_000,
        up=500,
        tokens_per_second=1500.0,
        spread=0,
        jitter=0,
        download_bytes_per_second=1500.0,
        upload_bytes_per_second=250.0,
    )
    for number, client in enumerate(names(5)):
        assert exact.seconds(client, number) == 6000 / 1500 + 3000 / 1500 + 500 / 250


def test_speeds_are_log_normal_around_the_median_client():
    logs = [math.log(clock(spread=0.7, tokens_per_second=200.0).speed(client) / 200) for client in names(2000)]
    assert abs(statistics.fmean(logs)) < 4.5 * 0.7 / 2000**0.5
    assert abs(statistics.stdev(logs) - 0.7) < 4.5 * 0.7 / (2 * 2000) ** 0.5


def test_jitter_changes_from_round_to_round_and_speed_does_not():
    one = clock(spread=0.5, jitter=0.2)
    ratios = [math.log(one.seconds("a", number) * one.speed("a") / 1000) for number in range(1, 2001)]
    assert abs(statistics.fmean(ratios)) < 4.5 * 0.2 / 2000**0.5
    assert abs(statistics.stdev(ratios) - 0.2) < 4.5 * 0.2 / (2 * 2000) ** 0.5
    assert clock(jitter=0).seconds("a", 1) == clock(jitter=0).seconds("a", 2)


def test_speeds_follow_the_seed():
    assert clock(seed=1).speed("a") == clock(seed=1).speed("a") != clock(seed=2).speed("a")


def test_a_round_lasts_as_long_as_its_slowest_client():
    drawing, one = participation(20, 5, clock={}), clock()
    for number in range(1, 20):
        found = drawing.round(number)
        assert len(found.clients) == 5
        assert found.seconds == max(one.seconds(client, number) for client in found.clients)


def test_of_more_clients_drawn_the_first_count():
    drawing, one = participation(20, 5, clock={}, over_selection=1.3), clock()
    for number in range(1, 20):
        found = drawing.round(number)
        assert (len(found.clients), len(found.missing)) == (5, 2)
        assert set(found.missing.values()) == {"not among the first 5"}
        assert found.seconds == max(one.seconds(client, number) for client in found.clients)
        assert all(one.seconds(client, number) > found.seconds for client in found.missing)


def test_over_selection_is_rounded_up_but_not_by_rounding_noise():
    # 1.1 * 10 = 11.000000000000002 in floating point.
    found = participation(20, 10, clock={}, over_selection=1.1).round(1)
    assert len(found.clients) + len(found.missing) == 11


def test_over_selection_draws_at_most_everybody():
    found = participation(6, 5, clock={}, over_selection=2.0).round(1)
    assert (len(found.clients), len(found.missing)) == (5, 1)


def test_spare_clients_stand_in_for_drop_outs():
    drawing = participation(30, 5, clock={}, over_selection=2.0, drop_out=0.3)
    stood_in = 0
    for number in range(1, 100):
        found = drawing.round(number)
        dropped = sum(reason == "dropped out" for reason in found.missing.values())
        assert len(found.clients) == min(5, 10 - dropped)
        stood_in += 0 < dropped <= 5
    assert stood_in


def test_past_the_deadline_nobody_counts_and_the_round_ends_with_it():
    drawing, one, kinds = participation(20, 5, clock={}, deadline=1.2), clock(), set()
    for number in range(1, 60):
        found = drawing.round(number)
        drawn = [*found.clients, *found.missing]
        assert set(found.clients) == {client for client in drawn if one.seconds(client, number) <= 1.2}
        assert set(found.missing.values()) <= {"past the deadline of 1.2 simulated seconds"}
        slowest = max(one.seconds(client, number) for client in drawn)
        assert found.seconds == min(1.2, slowest)
        kinds.add(bool(found.missing))
    assert kinds == {True, False}


def test_a_server_with_a_deadline_waits_for_drop_outs_until_then():
    drawing = participation(20, 5, clock={}, deadline=50.0, drop_out=0.3)
    for number in range(1, 40):
        found = drawing.round(number)
        assert (found.seconds == 50.0) == bool(found.missing)


def test_without_a_deadline_a_round_of_drop_outs_takes_no_time():
    drawing = participation(4, 2, clock={}, drop_out=0.9)
    empty = [found for found in map(drawing.round, range(1, 30)) if not found.clients]
    assert empty
    assert {found.seconds for found in empty} == {0.0}


@pytest.mark.parametrize("name", ["deadline", "over_selection"])
def test_what_needs_a_clock_is_refused_without(name):
    with pytest.raises(ValueError, match=f"{name} has no effect without a clock"):
        ParticipationConfig.model_validate({name: 2.0})
