"""Who is drawn: uniformly, by examples, among those available; nothing but keys decides."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.participation import Clock, Participation
from fedloom.randomness import numpy_generator
from fedloom.recipe.participation_schema import ClockConfig, ParticipationConfig
from tests.participation.populations import SEED, names, participation

DEVIATIONS = 4.5


def shares(drawing: Participation, rounds: int) -> Counter[str]:
    return Counter(client for number in range(1, rounds + 1) for client in drawing.round(number).clients)


def close(share: float, expected: float, rounds: int) -> bool:
    return abs(share - expected) <= DEVIATIONS * (expected * (1 - expected) / rounds) ** 0.5


def test_the_plain_draw_is_the_one_of_runs_so_far():
    drawing = participation(50, 8)
    for number in range(1, 30):
        expected = numpy_generator(SEED, "clients", number).choice(50, 8, replace=False)
        found = drawing.round(number)
        assert found.clients == tuple(sorted(names(50)[index] for index in expected))
        assert not found.missing
        assert found.seconds is None


def test_uniform_draws_take_everybody_alike():
    rounds = 4000
    for count in shares(participation(20, 5), rounds).values():
        assert close(count / rounds, 0.25, rounds)


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_draws_by_examples_are_successive_draws_without_replacement(wanted):
    sizes, rounds = [1, 2, 3, 6, 12], 6000
    inclusion = np.zeros(len(sizes))
    for order in permutations(range(len(sizes)), wanted):
        left, probability = float(sum(sizes)), 1.0
        for index in order:
            probability *= sizes[index] / left
            left -= sizes[index]
        inclusion[list(order)] += probability
    drawn = shares(participation(5, wanted, sizes, sampling="examples"), rounds)
    for name, expected in zip(names(5), inclusion, strict=True):
        assert close(drawn[name] / rounds, expected, rounds), name


def test_everybody_can_be_drawn_by_examples():
    assert participation(5, 5, [1, 2, 3, 4, 5], sampling="examples").round(1).clients == tuple(names(5))


def test_drop_outs_are_those_of_their_probability_and_leave_the_draw_as_it_is():
    rounds, plain, dropping = 2000, participation(), participation(drop_out=0.3)
    missing = 0
    for number in range(1, rounds + 1):
        found = dropping.round(number)
        assert {*found.clients, *found.missing} == set(plain.round(number).clients)
        assert set(found.missing.values()) <= {"dropped out"}
        missing += len(found.missing)
    assert close(missing / (5 * rounds), 0.3, 5 * rounds)


def test_whether_a_client_drops_out_does_not_depend_on_who_else_is_drawn():
    everybody, some = participation(20, 20, drop_out=0.4), participation(20, 6, drop_out=0.4)
    for number in range(1, 50):
        found = some.round(number)
        assert set(found.missing) <= set(everybody.round(number).missing)
        assert set(found.clients) <= set(everybody.round(number).clients)


def test_a_round_in_which_all_drop_out_has_no_clients():
    drawing = participation(4, 2, drop_out=0.9)
    empty = [found for found in map(drawing.round, range(1, 30)) if not found.clients]
    assert empty
    assert all(len(found.missing) == 2 for found in empty)


class Lazy(list):
    """Names that can be asked for one by one only."""

    def __iter__(self):
        raise AssertionError("somebody lists the whole population")


@pytest.mark.parametrize("sampling", ["uniform", "examples"])
def test_a_large_population_is_never_listed(sampling):
    config = ParticipationConfig(sampling=sampling)
    population = Lazy(names(10_000))
    drawing = Participation(config, 10, SEED, population, lambda: np.arange(1, 10_001))
    assert len(set(drawing.round(1).clients)) == 10


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(2, 30),
    data=st.data(),
    sampling=st.sampled_from(["uniform", "examples"]),
    drop_out=st.sampled_from([0.0, 0.2, 0.8]),
    clocked=st.booleans(),
)
def test_whatever_is_asked_for_rounds_are_sound_and_independent_of_order(
    seed, count, data, sampling, drop_out, clocked
):
    wanted = data.draw(st.integers(1, count))
    section = {"sampling": sampling, "drop_out": drop_out}
    if clocked:
        section |= {"clock": {}, "over_selection": 1.5, "deadline": data.draw(st.sampled_from([0.7, 1.0, 3.0]))}
    sizes = list(range(1, count + 1))
    forwards = [participation(count, wanted, sizes, seed, **section).round(number) for number in range(1, 6)]
    drawing = participation(count, wanted, sizes, seed, **section)
    assert [drawing.round(number) for number in range(5, 0, -1)] == forwards[::-1]
    for found in forwards:
        assert list(found.clients) == sorted(set(found.clients))
        assert not set(found.clients) & set(found.missing)
        assert len(found.clients) <= wanted
        expected = min(count, -(-3 * wanted // 2)) if clocked else wanted
        assert len(found.clients) + len(found.missing) == expected
        assert (found.seconds is not None) == clocked
        assert (found.waiting is not None) == (clocked and len(found.clients) > 0)


def test_a_client_waits_from_its_own_end_to_the_rounds():
    section = {"clock": {"spread": 1.0}, "over_selection": 1.5}
    clock = Clock(ClockConfig.model_validate(section["clock"]), SEED, lambda _: 1000.0, 0, 0)
    for number in range(1, 6):
        found = participation(20, 5, **section).round(number)
        finish = [clock.seconds(client, number) for client in found.clients]
        assert found.seconds == max(finish)
        assert found.waiting == pytest.approx(np.mean(max(finish) - np.array(finish)))
        assert found.waiting > 0
