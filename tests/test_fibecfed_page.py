"""The commands of docs/fibecfed.md: every part switched off, every baseline, on real sentences."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fedloom.cli import main
from tests.encoders import tiny_roberta

PAGE = Path(__file__).resolve().parent.parent / "docs" / "fibecfed.md"
COMMANDS = re.findall(r"^    (fedloom .*?)(?=\n    fedloom|\n\n|\Z)", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
# The same experiment, as little of it as there can be.
LESS = [
    "data.source.examples=48",
    "data.max_tokens=64",
    "federation.clients_per_round=2",
    "evaluation.every=null",
    "evaluation.max_examples=1",
]
CLASSIFICATION = [
    "data.source.subset=null",
    "data.source.fields={text: text, label: label}",
    "data.partition={kind: label_prior, clients: 4, key: label}",
]


def of(name: str) -> list[str]:
    """The words of the command that writes to a folder of this name."""
    words = [shlex.split(command.replace("\\\n", " ")) for command in COMMANDS]
    return next(one for one in words if f"runs/{name}" in one)


def carry_out(words: list[str], shared: Path, monkeypatch) -> None:
    """A command of the page with a tiny model, few records and one round; in the current folder."""
    less = [*LESS, "federation.rounds=1"]
    if "dolly" in words:
        less += [f"data.source.path={shared}/data/instruct/dolly15k.jsonl.gz", "model.base=pocket", "local.steps=1"]
        less += ["data.partition={kind: iid, clients: 4}", "data.global_test=null", "data.max_tokens=256"]
        less += ["local.batch_size=2"]
    else:
        less += [*CLASSIFICATION, f"data.source.path={shared}/data/classification/sst2.jsonl.gz"]
        less += [f"model.base={tiny_roberta(Path('base'))}"]
    command = [*words, *(word for setting in less for word in ("--set", setting))]
    if words[1] == "compare":
        command += ["--seeds", "1", "--no-baselines"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, words


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "variants"), [("ablation", 8), ("layers", 6), ("curricula", 6), ("kinds", 5), ("dolly", 2)]
)
def test_its_comparisons_run(name, variants, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    carry_out(of(name), shared, monkeypatch)
    found = json.loads(Path(f"runs/{name}/compare.json").read_text())
    assert found["finished"]
    runs = [run for variant in found["variants"] for run in variant["runs"]]
    assert len(runs) == variants
    assert not any(run["failed"] for run in runs)


def test_slora_is_two_runs_the_second_from_the_first(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("slora-1", "slora-2"):
        carry_out(of(name), shared, monkeypatch)
    first, second = (json.loads(Path(f"runs/slora-{stage}/metrics.json").read_text()) for stage in (1, 2))
    assert first["baselines"]["base"] == second["baselines"]["base"]
    assert second["baselines"]["start"]["loss"] == pytest.approx(first["eval"]["loss"], rel=0.05)


def test_nothing_of_the_page_is_left_out():
    names = {word.removeprefix("runs/") for command in COMMANDS for word in command.split() if word.startswith("runs/")}
    assert names == {"fibecfed", "ablation", "layers", "curricula", "kinds", "slora-1", "slora-2", "dolly"}
