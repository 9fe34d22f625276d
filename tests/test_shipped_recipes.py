"""Every shipped recipe says whose experiment it is, and the command in its heading runs it on real data."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedloom.cli import main
from fedloom.recipe import load_recipe
from fedloom.recipe.shipped import OWN, Heading, grouped, heading, shipped_recipes

ROOT = Path(__file__).resolve().parent.parent
RECIPES = shipped_recipes()
# One of each kind of data; the others differ from these in names and numbers only.
QUICK = {"fed-gsm8k-3", "four-domains", "flowertune-finance", "fedllm-bench-aya", "fibecfed/rte", "jcpba/gsm8k"}
# The same experiment, as little of it as there can be: a record for training and one for the test of each client.
LESS = {
    "federation.rounds": "1",
    "local.steps": "1",
    "local.batch_size": "2",
    "evaluation.max_examples": "1",
    "data.split": "{validation: 0, test: 0.5}",
}


def words(one: Heading) -> list[str]:
    return shlex.split(one.commands.replace("\\\n", " "))


def options(name: str) -> list[str]:
    found = words(heading(RECIPES[name]))
    return [word for before, word in itertools.pairwise(found) if before == "--set"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_and_how_to_run_it_here(name):
    one = heading(RECIPES[name])
    assert one.about
    assert one.setting
    if one.group != OWN:
        assert re.search(r"\(arXiv \d{4}\.\d{5}\)$", one.paper)
        assert one.differs
    assert words(one)[:5] == ["fedloom", "run", name, "--out", f"runs/{name}"]
    recipe = load_recipe(name)
    assert recipe.name == name.replace("/", "-")
    # Nothing of the hub is left when its command is used.
    local = load_recipe(name, options(name))
    assert local.model.base == "pocket" or local.model.base.startswith("../shared/")
    if recipe.task.kind != "classification":
        # An encoder's layers have other names than the embedded model's.
        assert local.model.adapter == recipe.model.adapter
    assert local.federation == recipe.federation


def test_the_numbers_of_the_papers():
    found = {name: load_recipe(name) for name in RECIPES}
    general = found["flowertune-general"]
    assert (general.model.adapter.rank, general.model.adapter.alpha) == (32, 64)
    for name, clients, drawn in [("general", 20, 2), ("finance", 50, 5), ("medical", 20, 2), ("code", 10, 2)]:
        federation = found[f"flowertune-{name}"].federation
        assert federation.stop.bytes == 200_000 * 10**6
        assert (found[f"flowertune-{name}"].data.partition.clients, federation.clients_per_round) == (clients, drawn)
    for name in (name for name, one in found.items() if name.startswith("openfedllm") and one.task.kind == "sft"):
        made = found[name]
        assert (made.federation.rounds, made.federation.clients_per_round, made.data.partition.clients) == (200, 2, 20)
        assert (made.local.steps, made.local.batch_size, made.data.source.examples) == (10, 16, 20_000)
    for made in (one for name, one in found.items() if name.startswith("openfedllm") and one.task.kind == "dpo"):
        assert (made.federation.rounds, made.federation.clients_per_round, made.data.partition.clients) == (200, 2, 5)
        assert (made.local.steps, made.local.batch_size, made.data.source.examples) == (10, 16, 20_000)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_the_command_of_the_heading_runs(name, shared, tmp_path, monkeypatch, capsys):
    """One round, through the command line."""
    monkeypatch.chdir(ROOT)
    command = [word.replace("../shared/", f"{shared}/") for word in words(heading(RECIPES[name]))]
    command = [re.sub(r"examples: \d+", "examples: 20", word) for word in command]
    command[command.index("--out") + 1] = str(tmp_path / "run")
    less = dict(LESS)
    if any(word.startswith("data.source.path=") for word in command):
        # A hundred clients have at least three each.
        less["data.source.examples"] = "400" if name.startswith("fibecfed/") else "120"
    if name.startswith("fibecfed/"):
        less |= {"federation.layers.examples": "1", "evaluation.max_clients": "4", "evaluation.every": "null"}
    if name in {"quickstart", "fed-gsm8k-3"}:
        del less["data.split"]
    if name != "four-domains":
        less["baselines"] = "[]"
    if not any("../shared" in word or str(shared) in word for word in command):
        # A recipe that is local as it is.
        source = load_recipe(name).data.source
        less |= {"data.source": source.replace("../shared/", f"{shared}/")} if "../shared" in source else {}
        base = load_recipe(name).model.base
        less |= {"model.base": base.replace("../shared/", f"{shared}/")} if "../shared" in base else {}
    for key, value in less.items():
        command += ["--set", f"{key}={value}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["name"] == name.replace("/", "-")
    assert metrics["eval"]["loss"] > 0
    if name == "four-domains":
        clients = ["code", "finance", "general", "mathematics"]
        assert [row["client"] for row in metrics["cross"] if row["arm"] == "local"] == clients
        assert all(list(row["on"]) == clients for row in metrics["cross"])
        assert "local: mathematics" in capsys.readouterr().out


def test_the_list_and_one_recipe_are_printed(monkeypatch, capsys):
    def printed(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedloom", "recipes", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, told = printed()
    assert not code
    assert next(iter(grouped())) == OWN
    for name, path in RECIPES.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(heading(path).about)}$", told.out, re.MULTILINE)
    for one in (one for headings in grouped().values() for one in headings.values() if one.paper):
        assert one.paper in told.out
    code, told = printed("fed-dolly")
    assert told.out.split("\n", 1)[1] == RECIPES["fed-dolly"].read_text()
    code, told = printed("fed-doly")
    assert code == 2
    assert "recipe: 'fed-doly' is not one of" in told.err
    assert "did you mean 'fed-dolly'?" in told.err


def test_the_pages_that_list_them_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "list_recipes.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
