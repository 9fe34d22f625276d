"""Every command, recipe and snippet of the README does what it says, in order, in one folder; links lead somewhere."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

from fedloom.cli import app
from fedloom.model.adapters.registry import KINDS
from fedloom.recipe import load_recipe
from tests.processes import carry_out

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
# Same commands, less work: the test is about what the README says, not about how well the model learns.
LESS_WORK = ["--set", "local.steps=1", "--set", "evaluation.max_examples=4"]


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_make_runs_what_the_readme_says():
    printed = subprocess.run(["make", "-n", "-B", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "fedloom run recipes/quickstart.yaml --out runs/quickstart --seeds 3 --resume" in README
    assert "fedloom run recipes/quickstart.yaml --out runs/quickstart --seeds 3 --resume" in printed.stdout
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", README)) <= targets


def test_the_recipe_shown_is_the_recipe_shipped():
    shown = next(text for text in blocks("yaml") if text.startswith("name: dolly"))
    assert load_recipe(yaml.safe_load(shown)) == load_recipe(ROOT / "recipes" / "dolly.yaml")


def test_no_kind_of_adapter_and_no_command_is_left_out():
    assert not [kind for kind in KINDS if f"`{kind}`" not in README]
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(commands) > 5
    assert not [name for name in commands if f"fedloom {name}" not in README]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_all_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, place = link.partition("#")
        if not path.startswith("https:"):
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not place or place in anchors(target.read_text()), link


def anchors(text: str) -> set[str]:
    """The places that headings make, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.long
def test_commands_and_snippets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipes").symlink_to(ROOT / "recipes")
    Path("mine.yaml").write_text(next(text for text in blocks("yaml") if text.startswith("# mine.yaml")))
    commands = [line for line in "".join(blocks("sh")).splitlines() if not line.startswith("make ")]
    assert len(commands) > 10
    for line in commands:
        command = line.split("  #")[0]
        carry_out(" ".join([command, *LESS_WORK]) if command.startswith("fedloom run") else command)
    assert Path("runs/own/adapter/adapter_model.safetensors").is_file()
    for number, snippet in enumerate(blocks("python")):
        Path(f"snippet-{number}.py").write_text(snippet)
        runpy.run_path(f"snippet-{number}.py")
