"""How many layers are shared, and which: pure functions, with numbers worked out by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.recipe.layers_schema import LayersConfig
from fedloom.training.layer_choice import LayerChoice, choose, number_of_layers, weighted_mean

LOSSLESS = LayersConfig(share="lossless")


@pytest.mark.parametrize(("layers", "number"), [(12, 5), (24, 9)])
def test_the_lossless_number(layers: int, number: int) -> None:
    keep_share = weighted_mean([3 / 7, 0.5, 0.25], [0.2, 0.3, 0.5])
    assert keep_share == pytest.approx(0.3607143, abs=1e-7)
    assert number_of_layers(LOSSLESS, layers, keep_share) == number


def test_the_lossless_number_is_scaled_and_bounded() -> None:
    twice = LayersConfig(share="lossless", scale=2.0)
    assert number_of_layers(twice, 12, 0.3607143) == 9
    assert number_of_layers(twice, 12, 0.9) == 12
    assert number_of_layers(LOSSLESS, 12, 0.0) == 1


@pytest.mark.parametrize(
    ("share", "layers", "number"),
    # 0.28 * 25 is 7.000000000000001 in binary.
    [(0.5, 24, 12), (0.5, 5, 3), (1, 6, 6), (0.01, 6, 1), (0.28, 25, 7), (0.3, 10, 3)],
)
def test_a_share_is_rounded_up(share: float, layers: int, number: int) -> None:
    assert number_of_layers(LayersConfig(share=share), layers) == number


def test_which_layers() -> None:
    layers, importances = [2, 3, 5, 8], [0.3, 0.9, 0.3, 0.1]
    assert choose(LayersConfig(number=2), layers, importances, 2, 0) == [2, 3]
    assert choose(LayersConfig(number=3), layers, importances, 3, 0) == [2, 3, 5]
    assert choose(LayersConfig(choose="lowest"), layers, None, 2, 0) == [2, 3]
    assert choose(LayersConfig(choose="highest"), layers, None, 3, 0) == [3, 5, 8]


def test_random_layers_are_keyed_by_the_seed() -> None:
    layers = list(range(24))
    drawn = [choose(LayersConfig(choose="random"), layers, None, 12, seed) for seed in range(20)]
    assert drawn == [choose(LayersConfig(choose="random"), layers, None, 12, seed) for seed in range(20)]
    assert len({tuple(chosen) for chosen in drawn}) == 20
    assert all(len(set(chosen)) == 12 and chosen == sorted(chosen) for chosen in drawn)
    # Every layer has its turn.
    assert set().union(*drawn) == set(layers)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**6)), min_size=1, max_size=30), st.randoms())
def test_the_order_of_clients_never_shows(reports: list[tuple[float, int]], generator: random.Random) -> None:
    shuffled = list(reports)
    generator.shuffle(shuffled)
    means = [weighted_mean([one[0] for one in some], [float(one[1]) for one in some]) for some in (reports, shuffled)]
    assert means[0] == means[1]


def test_the_layers_that_are_not_chosen() -> None:
    assert LayerChoice([0, 1, 2, 3], [1, 3]).others == (0, 2)
