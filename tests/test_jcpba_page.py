"""The comparisons of docs/jcpba.md: every scheme and a few budgets, on real problems."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fedloom.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "jcpba.md"
COMMANDS = re.findall(r"^    (fedloom .*?)(?=\n    fedloom|\n\n|\Z)", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
# The same experiment, as little of it as there can be.
LESS = [
    "model.base=pocket",
    "data.source.subset=null",
    "data.source.examples=60",
    "federation.rounds=1",
    "local.steps=1",
    "local.batch_size=1",
    "local.pruning.calibration_examples=1",
    "evaluation.every=null",
    "evaluation.max_examples=1",
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "variants"), [pytest.param("schemes", 8, marks=pytest.mark.slow), ("budgets", 3)])
def test_its_comparisons_run(name, variants, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = next(words for words in map(shlex.split, COMMANDS) if f"runs/{name}" in words)
    less = [*LESS, f"data.source.path={shared}/data/instruct/gsm8k_train.jsonl.gz"]
    command = [*words, *(word for setting in less for word in ("--set", setting)), "--seeds", "1", "--no-baselines"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, words
    found = json.loads(Path(f"runs/{name}/compare.json").read_text())
    assert found["finished"]
    runs = [run for variant in found["variants"] for run in variant["runs"]]
    assert len(runs) == variants
    assert not any(run["failed"] for run in runs)
    # Each on a clock of its own: no two schemes and no two budgets take the same time.
    seconds = {path: json.loads(path.read_text())["simulated_seconds"] for path in Path("runs").rglob("metrics.json")}
    assert len(set(seconds.values())) == len(seconds) == variants
