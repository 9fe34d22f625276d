"""One small comparison that nobody disturbs, shared by the tests that look at it."""

from pathlib import Path

import pytest
import yaml

import fedloom
from tests.compare import RATES, VARIANTS, small_recipe


@pytest.fixture(scope="package")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small_recipe(folder)))
    return folder / "recipe.yaml"


@pytest.fixture(scope="package")
def undisturbed(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    vary, tune = {"federation.algorithm": VARIANTS}, {"local.learning_rate": RATES}
    return fedloom.compare(recipe_file, out, vary, tune, seeds=2).out
