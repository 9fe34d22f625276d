"""Every algorithm with every kind of adapter: it runs, or a recipe says before anything loads why it has no meaning."""

from pathlib import Path

import pytest

import fedloom
from fedloom.errors import UserError
from fedloom.recipe import load_recipe
from tests.adapters.kinds import SECTIONS
from tests.algorithms.every import ASYNCHRONOUS, PARAMETERS
from tests.federated_runs import recipe, write_examples

OF_FACTORS = {"fed_sb", "fedex_lora", "fedsa_lora", "ffa_lora", "flexlora", "flora", "hetlora", "rolora"}
FOR_ALL = sorted(PARAMETERS.keys() - OF_FACTORS)


def settings(source: Path, algorithm: str, kind: str) -> dict:
    federation = {"clients_per_round": 5, "rounds": 2, "algorithm": {"name": algorithm, **PARAMETERS[algorithm]}}
    values = recipe(
        source,
        federation={**federation, **(ASYNCHRONOUS if algorithm == "fedbuff" else {})},
        local={"epochs": None, "steps": 1},
        evaluation={"max_examples": 1, "max_clients": 2},
    )
    values["model"]["adapter"] = SECTIONS[kind][0]
    return values


@pytest.mark.parametrize("kind", SECTIONS)
def test_what_has_no_meaning_is_refused(kind: str) -> None:
    for algorithm in PARAMETERS:
        values = settings(Path("words.jsonl"), algorithm, kind)
        if algorithm in FOR_ALL or kind in {"lora", "rslora"}:
            assert load_recipe(values).model.adapter.kind == kind
        else:
            with pytest.raises(UserError, match=f"{algorithm} works on LoRA's factors A and B .*{kind} has") as refused:
                load_recipe(values)
            assert ("magnitudes" in refused.value.message) == (kind == "dora")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", FOR_ALL)
@pytest.mark.parametrize("kind", SECTIONS)
def test_what_has_a_meaning_runs(tmp_path: Path, kind: str, algorithm: str) -> None:
    source = write_examples(tmp_path / "words.jsonl", growth=1)
    metrics = fedloom.run(settings(source, algorithm, kind), tmp_path / "run").metrics
    assert metrics["rejected"] == 0
    assert metrics["eval"]["loss"] != metrics["baselines"]["base"]["loss"]
