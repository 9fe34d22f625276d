"""Every command, recipe and snippet of docs/your-data.md does what it says, in order, in one folder."""

import re
import runpy
from pathlib import Path

import pytest

from tests.processes import carry_out

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "your-data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.long
def test_the_page_from_start_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for language, text in BLOCKS:
        if language == "yaml":
            Path(text.split()[1]).write_text(text)  # named by the comment on its first line
        elif language == "python":
            Path("snippet.py").write_text(text)
            runpy.run_path("snippet.py")
        else:
            for line in text.splitlines():
                carry_out(line)
    printed = capsys.readouterr().out
    # Three of north's four rows and both of south's are used.
    assert re.search(r"north +2 +0 +1", printed)
    assert re.search(r"south +1 +0 +1", printed)
    assert "Dropped: 1 records, empty prompt" in printed
    assert "Dropped: 1 records, no label" in printed
    assert "2 classes: no 3, yes 4" in printed
    assert Path("bank-model/model.safetensors").is_file()
