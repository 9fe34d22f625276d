"""docs/algorithms.md has a row for every algorithm, and no row for any other."""

import re
from pathlib import Path

from fedloom.aggregation.registry import ALGORITHMS

PAGE = Path(__file__).parent.parent / "docs" / "algorithms.md"


def test_every_algorithm_has_a_row():
    rows = re.findall(r"^\| \(?`(\w+)`", PAGE.read_text(), flags=re.MULTILINE)
    assert set(rows) == set(ALGORITHMS)
