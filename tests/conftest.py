from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, models and tokenizers that is not part of the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("FEDLOOM_SHARED", beside))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data in {folder}; set FEDLOOM_SHARED to the folder that holds it")
    return folder
