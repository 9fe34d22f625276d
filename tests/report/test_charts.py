from __future__ import annotations

import itertools
import math

import pytest

from fedloom.report.line_chart import line_chart, ticks
from fedloom.report.record import Curve, Point
from fedloom.report.units import bytes_text, count_text, seconds_text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.31, 0.69), (2.0, 2.0), (0.0, 0.0), (-3.0, 1e6), (1e-9, 2e-9)])
def test_ticks_cover_the_range_evenly(low: float, high: float) -> None:
    found = ticks(low, high)
    slack = 1e-9 * max(1.0, abs(high))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 8
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-3) and step > 0 for step in steps)


def curve(arm: str, *values: float, first: int = 1) -> Curve:
    points = (Point(x=first + at, mean=value, low=value, high=value) for at, value in enumerate(values))
    return Curve(arm=arm, points=tuple(points))


def draw(*curves: Curve) -> str:
    return line_chart(curves, {"base": "Base", "federated": "Federated"}, "loss", str, str)


def test_baseline_with_one_point_is_a_level_and_a_curve_is_a_path() -> None:
    svg = draw(curve("base", 2.0, first=0), curve("federated", 1.5, 1.0))
    assert '<line class="level base"' in svg
    assert '<path class="curve federated"' in svg
    assert "round 2\nBase: 2.0\nFederated: 1.0" in svg


def test_first_point_of_a_run_alone() -> None:
    assert '<circle class="dot federated"' in draw(curve("federated", 1.5))
    assert draw() == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(999), "999 B"),
        (bytes_text(1_234_000), "1.2 MB"),
        (bytes_text(999_600), "1.0 MB"),
        (count_text(9_999), "9,999"),
        (count_text(134_515_008), "135 M"),
        (seconds_text(2.14), "2.1 s"),
        (seconds_text(59.7), "1 min 0 s"),
        (seconds_text(3599.6), "1 h 0 min"),
        (seconds_text(90_000), "1 d 1 h"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected
