"""A judge behind a real OpenAI-compatible server: `transformers serve`, with a model that has learnt to rate."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedloom.runs import run
from fedloom.suites.judge.config import judge_config
from fedloom.suites.judge.grading import Dialogue, comparisons, ratings
from fedloom.suites.judge.judge import Judge
from tests.federated_runs import recipe

SERVE = Path(sys.executable).with_name("transformers")
# Short enough for a model of 512 positions.
PROMPT = {"system_prompt": "", "type": "single", "prompt_template": "grade {answer}", "name": "short"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, merged with an adapter trained to answer each request for a grade with one."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fedloom.model.base import POCKET

    folder = tmp_path_factory.mktemp("judge_model")
    words = ("river", "stone", "lamp", "winter", "garden", "letter")
    rows = [{"prompt": f"grade {word} {other}", "response": "Rating: [[7]]"} for word in words for other in words]
    (folder / "rows.jsonl").write_text("".join(json.dumps({**row, "owner": row["prompt"][-1]}) + "\n" for row in rows))
    local = {"epochs": None, "steps": 20, "learning_rate": 1e-2}
    sections = {"federation": {"rounds": 3, "clients_per_round": 4}, "local": local, "evaluation": {"every": None}}
    values = recipe(folder / "rows.jsonl", **sections)
    values["data"]["template"] = "chat"
    run(values, folder / "run")
    base = AutoModelForCausalLM.from_pretrained(POCKET)
    peft.PeftModel.from_pretrained(base, folder / "run" / "adapter").merge_and_unload().save_pretrained(
        folder / "merged"
    )
    AutoTokenizer.from_pretrained(POCKET).save_pretrained(folder / "merged")
    return folder / "merged"


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    for module in ("fastapi", "uvicorn"):
        pytest.importorskip(module, reason="transformers[serving] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([SERVE, "serve", model, *address], env=environment) as process:
        try:
            for _ in range(600):
                if process.poll() is not None:
                    pytest.fail("the server has ended")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            else:
                pytest.fail("the server does not answer")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def test_ratings_and_what_they_cost(url: str, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "short.yaml"
    prompts.write_text(yaml.safe_dump([PROMPT]))
    config = judge_config(
        url, str(model), ["max_tokens=16"], prompts=str(prompts), prompt_price=1.0, completion_price=1.0
    )
    assert config is not None
    asked = [ratings(Dialogue(("q",), (f"{word} lamp",)))[0] for word in ("river", "winter", "garden")]
    for paid in (3, 0):
        with Judge(config, tmp_path / "judge.jsonl") as judge:
            assert [verdict.value for verdict in judge.verdicts(asked)] == [7.0, 7.0, 7.0]
            assert judge.paid_now == paid
            spent = judge.settle()
    assert (spent.replies, spent.uncounted) == (3, 0)
    assert spent.prompt_tokens > 3
    assert spent.completion_tokens > 3
    assert spent.cost == pytest.approx((spent.prompt_tokens + spent.completion_tokens) / 1e6)


def test_words_without_a_verdict_are_unjudged(url: str, model: Path, tmp_path: Path) -> None:
    config = judge_config(url, str(model), ["max_tokens=4"])
    assert config is not None
    dialogue = Dialogue(("q",), ("an answer",))
    with Judge(config, tmp_path / "judge.jsonl") as judge:
        verdicts = judge.verdicts(comparisons(dialogue, Dialogue(("q",), ("another",))))
        assert [verdict.value for verdict in verdicts] == [None, None]
        assert judge.settle().replies == 6
