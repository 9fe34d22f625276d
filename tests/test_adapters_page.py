"""docs/adapters.md has a row for every kind of adapter; its recipe lines load, and its numbers are theirs."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from fedloom.model.adapters.registry import KINDS, adapter_class
from fedloom.model.base import POCKET
from fedloom.recipe import load_recipe

PAGE = Path(__file__).parent.parent / "docs" / "adapters.md"
ROWS = {
    cells[1].strip(" `"): cells
    for cells in (line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `"))
}


def test_every_kind_has_a_row() -> None:
    assert ROWS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", ROWS)
def test_recipe_lines_and_sizes(kind: str) -> None:
    (line,) = re.findall("`(.*)`", ROWS[kind][4])
    adapter = load_recipe({"model": {"adapter": yaml.safe_load(line)}}).model.adapter
    assert adapter.kind == kind
    # What the page shows is what there is by default.
    assert adapter == load_recipe({"model": {"adapter": kind}}).model.adapter
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(POCKET))
    shapes = adapter_class(kind).layout(model, adapter).shapes
    assert f"{sum(map(math.prod, shapes.values())):,}" == ROWS[kind][5].strip()
    assert ("one pass" in ROWS[kind][6]) == adapter_class(kind).cohorts
