"""docs/add-an-algorithm.md: its example is executed as written, in a recipe and on tensors."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fedloom
from fedloom.aggregation import Update, algorithm
from fedloom.aggregation.registry import ALGORITHMS, parameters_model
from fedloom.errors import UserError
from tests.federated_runs import recipe, write_examples

PAGE = Path(__file__).parent.parent / "docs" / "add-an-algorithm.md"
LONGEST = 60


@pytest.fixture
def fedexp(tmp_path, monkeypatch):
    """The page's file put where an import finds it, and the page's line put into the table."""
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(file.splitlines()) < LONGEST
    path = tmp_path / "fedexp.py"
    path.write_text(file)
    spec = importlib.util.spec_from_file_location("fedloom.aggregation.fedexp", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    name, place = re.fullmatch(r'    "(\w+)": "([\w:.]+)",\n', line).groups()
    monkeypatch.setitem(ALGORITHMS, name, place)
    parameters_model.cache_clear()
    return name


def test_the_example_does_what_its_equation_says(fedexp):
    deltas = np.random.default_rng(0).standard_normal((4, 3))
    mean = deltas.mean(0)
    expected = max(1, (deltas**2).sum() / (2 * 4 * ((mean**2).sum() + 0.01))) * mean
    updates = [Update(str(k), {"w": torch.tensor(delta)}, k + 1) for k, delta in enumerate(deltas)]
    found, _ = algorithm(fedexp, epsilon=0.01).step({"w": torch.zeros(3, dtype=torch.float64)}, {}, updates)
    np.testing.assert_allclose(found["w"].numpy(), expected, rtol=1e-12)


def test_the_example_runs_as_a_recipe_and_its_parameters_are_checked(fedexp, tmp_path):
    values = recipe(
        write_examples(tmp_path / "words.jsonl"), federation={"rounds": 2, "clients_per_round": 3, "algorithm": fedexp}
    )
    result = fedloom.run(values, tmp_path / "run")
    plain = fedloom.run(values, tmp_path / "plain", overrides=["federation.algorithm=fedavg"])
    assert result.metrics["eval"]["loss"] != plain.metrics["eval"]["loss"]
    with pytest.raises(UserError, match=r"federation\.algorithm\.epsilon: 0 is not a number above 0"):
        fedloom.run(values, tmp_path / "other", overrides=["federation.algorithm={name: fedexp, epsilon: 0}"])
