"""The data of the tests of pruned federations."""

from pathlib import Path

import pytest

from tests.federated_runs import write_examples


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("words") / "words.jsonl", growth=2)
