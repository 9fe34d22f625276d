"""docs/evaluation.md says what the tasks' files say, and has a row of results for every task that comes with files."""

import subprocess
import sys
from pathlib import Path

from fedloom.suites.catalogue import all_tasks

ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_are_up_to_date() -> None:
    command = [sys.executable, ROOT / "tools" / "list_tasks.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_task_has_its_row() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for task in all_tasks().values():
        assert f"[`{task.name}`](../src/fedloom/suites/tasks/{task.name}.yaml)" in page
        assert task.given is not None or f"\n| `{task.name}` |" in page
