"""Every command, recipe and snippet of the README does what it says, in order, in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedloom.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
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


@pytest.mark.long
def test_commands_and_snippets(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    own = next(text for text in blocks("yaml") if text.startswith("# mine.yaml"))
    (tmp_path / "mine.yaml").write_text(own)
    executed = 0
    for line in "".join(blocks("sh")).splitlines():
        command = line.split("  #")[0].strip()
        if command.startswith("make "):
            continue
        if command.startswith("fedloom run"):
            command = " ".join([command, *LESS_WORK])
        command = re.sub(r"^fedloom", f"{sys.executable} -m fedloom", command)
        done = subprocess.run(
            command,
            cwd=tmp_path,
            shell=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        executed += 1
    assert executed > 10
    assert (tmp_path / "runs" / "own" / "adapter" / "adapter_model.safetensors").is_file()
    for snippet in blocks("python"):
        done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
