"""Every algorithm with every kind of adapter and with what else changes clients' training: it runs, or says why not.

What each combination computes is tested elsewhere; here none may end in a traceback, or do nothing and say nothing.
"""

import re
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.errors import UserError
from fedloom.recipe.adapter_schema import kind_configs
from tests.algorithms.every import PARAMETERS, Values, merged, settings
from tests.federated_runs import write_examples
from tests.preference_runs import write_pairs

pytestmark = pytest.mark.slow

FIELDS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
IN_BATCHES = {"steps": None, "epochs": 1, "batch_size": 2}
PRIVATE = {"federation": {"layers": {"choose": "highest"}}}
FEW_TESTS = {"max_examples": 2, "max_clients": 3}


def curriculum(difficulty: str, **keys: Any) -> Values:
    return {"local": {**IN_BATCHES, "curriculum": {"difficulty": difficulty, "start": 0.3, **keys}}}


def preferences(loss: str, **sections: Any) -> Values:
    return {"task": {"kind": "dpo", "loss": loss}, "data": {"fields": FIELDS}, **sections}


SECTIONS: dict[str, Values] = {
    "curriculum by Fisher information": curriculum("fisher", refresh=1),
    "curriculum by loss": curriculum("loss"),
    "private layers, sparse": {**PRIVATE, "local": {"sparse": {"share": 0.5}}},
    "private layers, sparse, curriculum": {
        **PRIVATE,
        "local": {**IN_BATCHES, "sparse": {"share": 0.5}, "curriculum": {"start": 0.3}},
    },
    "private factor, sparse": {"federation": {"private": ["lora_B"]}, "local": {"sparse": {"share": 0.5}}},
    "pruning": {"local": {"pruning": {"rate": 0.3, "calibration_examples": 1}}},
    "DPO": preferences("sigmoid"),
    "SimPO": preferences("simpo"),
    "KTO": preferences("kto"),
    "DPO, curriculum by length": preferences("sigmoid", **curriculum("length")),
    "ORPO, private layers": preferences("orpo", **PRIVATE),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Texts, and preferences."""
    folder = tmp_path_factory.mktemp("data")
    return {False: write_examples(folder / "words.jsonl"), True: write_pairs(folder / "pairs.jsonl")}


def runs_or_says_why(values: Values, out: Path) -> None:
    refusal = ""
    try:
        metrics = fedloom.run(values, out).metrics
    except UserError as error:
        refusal = str(error)
    if refusal:
        # By its key, before anything is done.
        assert re.match(r"(federation|local|model|task|runtime|baselines)\b", refusal)
        assert not out.exists()
    else:
        assert metrics["eval"]["own"]["loss"] > 0


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("algorithm", PARAMETERS)
def test_sections(sources: dict[bool, Path], tmp_path: Path, algorithm: str, section: str) -> None:
    more = SECTIONS[section]
    values = {**settings(sources["task" in more], algorithm), "evaluation": FEW_TESTS}
    runs_or_says_why(merged(values, more), tmp_path / "run")


@pytest.mark.parametrize("kind", kind_configs())
@pytest.mark.parametrize("algorithm", PARAMETERS)
def test_kinds(sources: dict[bool, Path], tmp_path: Path, algorithm: str, kind: str) -> None:
    values = {**settings(sources[False], algorithm), "evaluation": FEW_TESTS, "runtime": {"cohort": "auto"}}
    values["model"]["adapter"] = {"kind": kind}
    runs_or_says_why(values, tmp_path / "run")
