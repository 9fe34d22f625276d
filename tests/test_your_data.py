"""Every command, recipe and snippet of docs/your-data.md does what it says, in order, in one folder."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedloom.cli import main

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "your-data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.long
def test_the_page_from_start_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for language, text in BLOCKS:
        if language == "yaml":
            Path("bank.yaml").write_text(text)
        elif language == "python":
            Path("snippet.py").write_text(text)
            runpy.run_path("snippet.py")
        else:
            for line in text.splitlines():
                carry_out(line, monkeypatch)
    printed = capsys.readouterr().out
    # Three of north's four rows and both of south's are used.
    assert re.search(r"north +2 +0 +1", printed)
    assert re.search(r"south +1 +0 +1", printed)
    assert "Dropped: 1 records, empty prompt" in printed
    assert Path("bank-model/model.safetensors").is_file()


def carry_out(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the page; those of fedloom in this process, which has the libraries loaded."""
    if not line.startswith("fedloom "):
        subprocess.run(["sh", "-c", line], check=True)
        return
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0, line
