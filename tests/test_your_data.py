"""Every command, recipe and snippet of docs/your-data.md does what it says, in order, in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "your-data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.long
def test_the_page_from_start_to_end(tmp_path: Path) -> None:
    printed = ""
    for language, text in BLOCKS:
        if language == "yaml":
            (tmp_path / "bank.yaml").write_text(text)
            continue
        lines = text.splitlines() if language == "sh" else [text]
        for line in lines:
            command = [sys.executable, "-c", line]
            if language == "sh":
                command = ["sh", "-c", re.sub(r"^fedloom", f"{sys.executable} -m fedloom", line)]
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            printed += done.stdout
    # Three of north's four rows and both of south's are used.
    assert re.search(r"north +2 +0 +1", printed)
    assert re.search(r"south +1 +0 +1", printed)
    assert "Dropped: 1 records, empty prompt" in printed
    assert (tmp_path / "bank-model" / "model.safetensors").is_file()
