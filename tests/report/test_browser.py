"""The pages in a real browser: nothing on the console, nothing wider than a phone, and switches that switch."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedloom.report.comparison import write_comparison
from fedloom.report.html import write_report
from tests.report.comparisons import comparison

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PHONE = 390

# Frames are as narrow as they are told to be; a headless window is not.
PROBE = """
<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    const shown = (name) => {
      const parts = [...page.querySelectorAll(`.lines .${name}`)];
      return parts.filter((part) => frame.contentWindow.getComputedStyle(part).display !== "none").length;
    };
    const box = page.querySelector(".legend input:checked");
    const name = box.id.slice("show-".length);
    const before = shown(name);
    box.click();
    const table = page.querySelector("table.sortable");
    const first = () => table.tBodies[0].rows[0].cells[0].textContent;
    const buttons = table.querySelectorAll("thead button");
    buttons[0].click();
    const ascending = first();
    buttons[0].click();
    found[frame.id] = {
      wide: page.documentElement.scrollWidth, before, after: shown(name), ascending, descending: first(),
    };
  }
  document.body.innerHTML = `<pre id="found">${JSON.stringify(found)}</pre>`;
});
</script>
"""


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_pages_in_a_browser(tmp_path: Path, write: Callable[..., Path]) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, labels in (
        (few, ("fedavg", "fedprox")),
        (many, tuple(f"a long label, {number}" for number in range(40))),
    ):
        folder.mkdir()
        (folder / "compare.json").write_text(json.dumps(comparison(labels=labels)))
    pages = {
        "report": write_report(write(tmp_path / "run", clients=("a" * 80, "b", "c"))),
        "few": write_comparison(few),
        "many": write_comparison(many),
    }
    frames = [
        f'<iframe id="{name}" style="width:{PHONE}px;height:800px" srcdoc="{html.escape(page.read_text())}"></iframe>'
        for name, page in pages.items()
    ]
    probe = tmp_path / "probe.html"
    probe.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(frames)}{PROBE}")
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = json.loads(html.unescape(done.stdout.split('<pre id="found">')[1].split("</pre>")[0]))
    for name, page in found.items():
        assert page["wide"] <= PHONE, name
        assert page["before"] > 0, name
        assert page["after"] == 0, name
        assert page["ascending"] != page["descending"], name
